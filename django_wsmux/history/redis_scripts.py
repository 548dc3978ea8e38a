"""The scripts of ``RedisStore``, and the keys that they use.

All keys of a stream have the same prefix, which puts them into the same slot of a cluster. For each
prefix::

    history                     hash: server, term   the server that wrote last; see below
                                      seq            number of the last change
                                      bytes:AGE      bytes of the messages that are kept so long
                                      marked, mark, floor   see SWEEP
    history:changed             sorted set: streams by the number of their last change
    history:kept:AGE            sorted set: streams by the time of their oldest message
    history:row:NAME            hash: l layout, e epoch, m its moment, t top, f is it forgotten,
                                      b bytes of all messages of the epoch, k of those kept,
                                      s how long they are kept
    history:messages:NAME       stream: <offset>-<time>; the field's name is b as it was then, its
                                      value the message
    history:keys:NAME           sorted set: keys by the time when they expire

Times and ages are in microseconds. The incarnation of a store is the beginning of the server's
``run_id`` and a term. A new term begins when a server finds that another server, or none, wrote
last. So the incarnation changes when a server restarts, when a replica takes over, and when the
first server returns.

A script that fails has written nothing: if Redis is out of memory or read-only, it refuses the
first write; if it accepts that one, it accepts the others.
"""

from __future__ import annotations

from typing import Final

from ..backends.redis import Script
from .store import LAYOUT, MAX_KEYS

__all__ = ["APPEND", "CHANGED", "FORGET", "POLICY", "READ", "RELEASE", "SWEEP", "common"]

#: The minimum time in microseconds for which a change is kept.
_CHANGE_MICROSECONDS: Final = 60_000_000

#: The most messages that one call of SWEEP deletes, so that it does not block the server for long.
_SWEPT: Final = 100

#: The most changes that one call returns.
_CHANGES: Final = 1_000


def common(layout: int, what: str) -> str:
    """Return the beginning of the scripts of a kind of store.

    Lua never converts numbers that may be large to text: it keeps only 14 digits.

    Args:
        layout: the layout of its rows.
        what: names its data.
    """
    return """
local call, bucket = redis.call, KEYS[1]
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]

local function text(number)
  return string.format('%.0f', number)
end

-- Returns the incarnation of the store, and whether it is a new one.
local function claim()
  local found = call('HMGET', bucket, 'server', 'term')
  local is_new = found[1] ~= ARGV[1]
  if is_new then
    found[2] = text(math.max(tonumber(found[2] or 0) + 1, clock[1]))
    call('HSET', bucket, 'server', ARGV[1], 'term', found[2])
  end
  return ARGV[1] .. found[2], is_new
end

local function begins(found, beginning)
  return found and string.sub(found, 1, #beginning) == beginning
end

local function too_new(layout)
  if layout and tonumber(layout) > LAYOUT then
    return redis.error_reply('ERR the WHAT was written by a newer release: layout ' ..
      layout .. ', and this release knows LAYOUT')
  end
end
""".replace("LAYOUT", str(layout)).replace("WHAT", what)


_COMMON: Final = (
    common(LAYOUT, "history")
    + """
local function is_of(epoch, store)
  return begins(epoch, store .. '.')
end

-- Returns the id of a message, its offset and time, the bytes of all messages before it, its own.
local function parse(entry)
  if entry then
    local offset, time = string.match(entry[1], '^(%d+)-(%d+)$')
    local size = #entry[2][2]
    return entry[1], tonumber(offset), tonumber(time), entry[2][1] - size, size
  end
end

local function oldest(messages)
  return parse(call('XRANGE', messages, '-', '+', 'COUNT', 1)[1])
end
"""
)

# Begins an epoch, and counts the bytes of a stream's messages.
_WRITING: Final = """
local function begin(row, store, moment)
  moment = math.max(now, tonumber(moment or 0) + 1)
  local digits, rest = '', moment
  while rest > 0 do
    local digit = rest % 36
    digits = string.sub('0123456789abcdefghijklmnopqrstuvwxyz', digit + 1, digit + 1) .. digits
    rest = (rest - digit) / 36
  end
  local epoch = store .. '.' .. digits
  call('HSET', row, 'l', LAYOUT, 'e', epoch, 'm', text(moment))
  return epoch
end

local function count(name, class, kept, sent, old_class, old_kept)
  if old_class and old_class ~= class then
    call('HINCRBY', bucket, 'bytes:' .. old_class, text(0 - old_kept))
    call('ZREM', bucket .. ':kept:' .. old_class, name)
    old_kept = 0
  end
  local delta = kept - tonumber(old_kept or 0)
  if delta ~= 0 then
    call('HINCRBY', bucket, 'bytes:' .. class, text(delta))
  end
  if sent then
    call('ZADD', bucket .. ':kept:' .. class, text(sent), name)
  else
    call('ZREM', bucket .. ':kept:' .. class, name)
  end
end

local function note(name)
  call('ZADD', bucket .. ':changed', call('HINCRBY', bucket, 'seq', 1), name)
end
""".replace("LAYOUT", str(LAYOUT))

#: Returns ``[epoch, offset]``; nothing for a repeated key.
APPEND: Final = Script(
    _COMMON
    + _WRITING
    + """
local name, message, most, most_bytes = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local class, idle, key, publish = ARGV[6], ARGV[7], ARGV[8], ARGV[10]
local row, messages = bucket .. ':row:' .. name, bucket .. ':messages:' .. name
local keys = bucket .. ':keys:' .. name
local found = call('HMGET', row, 'l', 'e', 'm', 't', 'b', 'k', 's')
local problem = too_new(found[1])
if problem then
  return problem
end
if key ~= '' then
  local expiry = call('ZSCORE', keys, key)
  if expiry and tonumber(expiry) > now then
    return false
  end
end
local store = claim()
local epoch, top, total = found[2], found[4], found[5]
if not is_of(epoch, store) then
  epoch, top, total = begin(row, store, found[3]), 0, 0
  call('HDEL', row, 'f')
  call('DEL', messages)
end
top, total = top + 1, total + #message

local kept, sent = 0, nil
if #message > most_bytes then
  call('DEL', messages)
else
  call('XADD', messages, 'MAXLEN', most, text(top) .. '-' .. text(now), text(total), message)
  call('PEXPIRE', messages, text(math.ceil(class / 1000)))
  kept, sent = #message, now
  if most > 1 then
    local id, _, time, before = oldest(messages)
    while total - before > most_bytes do
      call('XDEL', messages, id)
      id, _, time, before = oldest(messages)
    end
    kept, sent = total - before, time
  end
end
call('HSET', row, 't', text(top), 'b', text(total), 'k', text(kept), 's', class)
call('PEXPIRE', row, idle)
count(name, class, kept, sent, found[7], found[6])
note(name)

if key ~= '' then
  local seconds = math.ceil(ARGV[9] / 1000)
  call('ZREMRANGEBYSCORE', keys, '-inf', text(now))
  call('ZADD', keys, text(now + ARGV[9]), key)
  local beyond = call('ZCARD', keys) - MAX_KEYS
  if beyond > 0 then
    call('ZREMRANGEBYRANK', keys, 0, beyond - 1)
  end
  if call('PTTL', keys) < seconds then
    call('PEXPIRE', keys, text(seconds))
  end
end
if publish ~= '' then
  local position = epoch .. '-' .. text(top)
  call(publish, ARGV[11], ARGV[12] .. string.char(#position) .. position .. message)
end
return {epoch, top}
""".replace("MAX_KEYS", str(MAX_KEYS))
)

#: Lets keys expire sooner.
RELEASE: Final = Script(
    _COMMON
    + """
local keys, soon = bucket .. ':keys:' .. ARGV[2], now + ARGV[3]
for index = 4, #ARGV do
  local expiry = call('ZSCORE', keys, ARGV[index])
  if expiry and tonumber(expiry) > soon then
    call('ZADD', keys, text(soon), ARGV[index])
  end
end
local last = call('ZRANGE', keys, -1, -1, 'WITHSCORES')[2]
if last then
  call('PEXPIRE', keys, text(math.max(1, math.ceil((last - now) / 1000))))
end
"""
)

#: Returns ``[store, now, epoch, top, first, is forgotten, numbers, messages]``, where ``numbers``
#: is ``"<offset>-<time> <bytes of the message> ..."``; the client parses a few long texts faster.
READ: Final = Script(
    _COMMON
    + """
local name, since, limit, max_bytes = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local is_newest, most, most_bytes = ARGV[6] ~= '', tonumber(ARGV[7]), tonumber(ARGV[8])
local cutoff = now - ARGV[9]
local row, messages = bucket .. ':row:' .. name, bucket .. ':messages:' .. name
local found = call('HMGET', row, 'l', 'e', 't', 'b', 'f')
local problem = too_new(found[1])
if problem then
  return problem
end
local store = claim()
if not is_of(found[2], store) then
  return {store, now, '', 0, 1, 0, '', ''}
end
local top, total = tonumber(found[3]), tonumber(found[4])
local reply = {store, now, found[2], top, top + 1, found[5] and 1 or 0, '', ''}

-- The limits of the reader may be smaller than those of the sender.
local function is_kept(time, before)
  return time >= cutoff and total - before <= most_bytes
end
local id, low, time, before = oldest(messages)
if not id then
  return reply
end
local high = top + 1
local first = math.max(low, top - most + 1)
if first > low or not is_kept(time, before) then
  low = first
  while low < high do
    local middle = math.floor((low + high) / 2)
    local _, _, sent, earlier = parse(call('XRANGE', messages, text(middle), text(middle))[1])
    if is_kept(sent, earlier) then
      high = middle
    else
      low = middle + 1
    end
  end
  first = low
end
reply[5] = first
if since == '' or limit == '0' or first > top then
  return reply
end
local from = text(math.max(tonumber(since) + 1, first))
local entries
if is_newest then
  entries = call('XREVRANGE', messages, '+', from, 'COUNT', limit)
else
  entries = call('XRANGE', messages, from, '+', 'COUNT', limit)
end
local size, last = 0, 0
while last < #entries and size < max_bytes do
  last = last + 1
  size = size + #entries[last][2][2]
end
local start, stop, step = 1, last, 1
if is_newest then
  start, stop, step = last, 1, -1
end
local numbers, texts = {}, {}
for index = start, stop, step do
  local message = entries[index][2][2]
  numbers[#numbers + 1] = entries[index][1] .. ' ' .. #message
  texts[#texts + 1] = message
end
reply[7], reply[8] = table.concat(numbers, ' '), table.concat(texts)
return reply
"""
)

#: Returns ``[store, seq, are there more, name, epoch, top, ...]``; ``[store, seq]`` if the changes
#: are unknown.
CHANGED: Final = Script(
    _COMMON
    + """
local store = claim()
local found = call('HMGET', bucket, 'seq', 'floor')
local seq, floor = tonumber(found[1] or 0), tonumber(found[2] or 0)
if ARGV[2] ~= store or tonumber(ARGV[3]) < floor then
  return {store, seq}
end
local names = call('ZRANGEBYSCORE', bucket .. ':changed', '(' .. ARGV[3], '+inf', 'WITHSCORES',
  'LIMIT', 0, CHANGES)
local reply = {store, seq, 0}
if #names == 2 * CHANGES then
  reply[2], reply[3] = tonumber(names[#names]), 1
end
for index = 1, #names, 2 do
  local row = call('HMGET', bucket .. ':row:' .. names[index], 'e', 't')
  if is_of(row[1], store) then
    reply[#reply + 1] = names[index]
    reply[#reply + 1] = row[1]
    reply[#reply + 1] = tonumber(row[2])
  end
end
return reply
""".replace("CHANGES", str(_CHANGES))
)

#: Returns the new epoch.
FORGET: Final = Script(
    _COMMON
    + _WRITING
    + """
local name, class, idle = ARGV[2], ARGV[3], ARGV[4]
local row, messages = bucket .. ':row:' .. name, bucket .. ':messages:' .. name
local found = call('HMGET', row, 'l', 'm', 'k', 's')
local problem = too_new(found[1])
if problem then
  return problem
end
local epoch = begin(row, claim(), found[2])
call('HSET', row, 't', 0, 'b', 0, 'k', 0, 's', class, 'f', 1)
call('PEXPIRE', row, idle)
call('DEL', messages)
count(name, class, 0, nil, found[4], found[3])
note(name)
return epoch
"""
)

#: Returns the policy of the server for a full memory.
POLICY: Final = Script(
    "return string.match(redis.call('INFO', 'memory'), 'maxmemory_policy:([%w-]+)')"
)

#: Deletes expired messages, then the oldest ones until at most ``ARGV[2]`` bytes are left, unless
#: that argument is empty. Returns ``[bytes, are there more to delete]``. It also works when the
#: server is out of memory, because its first write is a deletion.
#:
#: Changes are deleted up to ``mark``, the number of the last change at the time ``marked``; that
#: number is then the ``floor``.
SWEEP: Final = Script(
    _COMMON
    + _WRITING
    + """
local left = SWEPT

-- Deletes messages of a stream while is_due(time) is true; returns their bytes.
local function trim(name, class, is_due)
  local row, messages = bucket .. ':row:' .. name, bucket .. ':messages:' .. name
  local old = call('HMGET', row, 'b', 'k', 's')
  if not old[1] then
    call('DEL', messages)
  end
  local id, _, time, before, size = oldest(messages)
  local freed = 0
  while id and left > 0 and is_due(time, freed) do
    call('XDEL', messages, id)
    left, freed = left - 1, freed + size
    id, _, time, before, size = oldest(messages)
  end
  left = left - 1
  if not old[1] or old[3] ~= class then
    call('ZREM', bucket .. ':kept:' .. class, name)
    return 0
  end
  local kept = id and old[1] - before or 0
  count(name, class, kept, time, class, old[2])
  call('HSET', row, 'k', text(kept))
  return old[2] - kept
end

local classes, total = {}, 0
local fields = call('HGETALL', bucket)
for index = 1, #fields, 2 do
  local class = string.match(fields[index], '^bytes:(%d+)$')
  if class then
    local kept, bytes = bucket .. ':kept:' .. class, tonumber(fields[index + 1])
    local cutoff = now - class
    while left > 0 do
      local names = call('ZRANGEBYSCORE', kept, '-inf', '(' .. text(cutoff), 'LIMIT', 0, 1)
      if not names[1] then
        break
      end
      bytes = bytes - trim(names[1], class, function(time) return time < cutoff end)
    end
    if call('PEXPIRE', kept, ARGV[3]) == 0 then
      call('HDEL', bucket, fields[index])
    else
      classes[#classes + 1] = class
      total = total + bytes
    end
  end
end

while ARGV[2] ~= '' and left > 0 and total > tonumber(ARGV[2]) do
  local class, name, sent
  for _, each in ipairs(classes) do
    local first = call('ZRANGE', bucket .. ':kept:' .. each, 0, 0, 'WITHSCORES')
    if first[1] and (not sent or tonumber(first[2]) < sent) then
      class, name, sent = each, first[1], tonumber(first[2])
    end
  end
  if not class then
    break
  end
  local excess = total - tonumber(ARGV[2])
  total = total - trim(name, class, function(time, freed)
    return time <= sent and freed < excess
  end)
end

local found = call('HMGET', bucket, 'marked', 'mark', 'seq')
if found[3] and now - (found[1] or 0) >= CHANGE_MICROSECONDS then
  local floor = found[2] or 0
  call('ZREMRANGEBYSCORE', bucket .. ':changed', '-inf', floor)
  call('HSET', bucket, 'floor', floor, 'marked', text(now), 'mark', found[3])
end
call('PEXPIRE', bucket, ARGV[3])
call('PEXPIRE', bucket .. ':changed', ARGV[3])
return {total, left > 0 and 0 or 1}
""".replace("SWEPT", str(_SWEPT)).replace("CHANGE_MICROSECONDS", str(_CHANGE_MICROSECONDS))
)
