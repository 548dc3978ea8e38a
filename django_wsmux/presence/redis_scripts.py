"""The scripts of ``RedisPresence`` for one group, and the keys of all scripts.

All keys of a group have the same prefix, which puts them into the same slot of a cluster. For each
prefix there is a separate store, with its own processes::

    presence                    hash: server, term   the server that wrote last, as for histories
                                      life, epoch    the number of the last one
    presence:processes          hash: the lives of processes that may be renewed
    presence:names              hash: processes by life
    presence:lives              sorted set: lives by their last sign of life; 0 if it has ended
    presence:of:LIFE            sorted set: groups with rows of a life, by the time when their
                                            expiry was set
    presence:due                sorted set: groups by the time when a leaving can be forgotten
    presence:group:NAME         hash: l layout, e epoch, n number of the last change, f of the last
                                      leaving that is forgotten
    presence:holders:NAME       hash: processes by life
    presence:rows:LIFE:NAME     hash: keys by connection
    presence:keys:NAME          hash: by key "<joined> <since> <life>:<rows>,... <info>"
    presence:order:NAME         sorted set: keys by the number of their last change
    presence:left:NAME          sorted set: "<joined> <when> <key>" by the number of the leaving

Times are in microseconds. When another server than before runs a script, or the same one after a
restart, all groups begin new epochs, because the last changes may be missing. Processes are then
told to enter their rows again, in a new life; the rows of the old life count for a while.

A script that fails has written nothing: if Redis is out of memory or read-only, it refuses the
first write, which is always one that needs memory. If it accepts that one, it accepts the others.
"""

from __future__ import annotations

from typing import Final

from ..backends.redis import Script
from ..history.redis_scripts import common
from .store import NO_GROUP

__all__ = ["CHANGED", "COMMON", "ENTER", "LEAVE", "READ", "WRITING"]

#: The layout of the data. A process that finds a higher one refuses to change it.
_LAYOUT: Final = 1

#: The most keys that one call of READ returns, and of the leavings that it reports.
_PAGE: Final = 1_000
_LEAVINGS: Final = 2_000

# ARGV[2]: the time after which a silent process is dead. ARGV[3]: the time for which a leaving is
# remembered.
COMMON: Final = (
    common(_LAYOUT, "presence")
    + """
-- The age of an expiry, in microseconds, at which it is set again; and the expiry, in milliseconds.
local AGE, EXPIRY = 3600000000, 172800000

local leaving, remembered = tonumber(ARGV[2]), tonumber(ARGV[3])
local processes, names = bucket .. ':processes', bucket .. ':names'
local lives, due = bucket .. ':lives', bucket .. ':due'

local function started()
  return call('ZRANGEBYSCORE', lives, '(0', '+inf')
end

local function open()
  local store, is_new = claim()
  if is_new then
    call('DEL', processes)
    for _, life in ipairs(started()) do
      call('ZADD', lives, text(now), life)
    end
  end
  return store .. '-'
end

-- The clock of another server may be early or late.
local is_alive_by_life = {}
local function is_alive(life)
  if is_alive_by_life[life] == nil then
    local seen = tonumber(call('ZSCORE', lives, life) or 0)
    is_alive_by_life[life] = seen > 0 and math.abs(now - seen) < leaving
  end
  return is_alive_by_life[life]
end

-- Returns a number that was never returned before, also if all data was deleted meanwhile.
local function next_of(field)
  local last = tonumber(call('HGET', bucket, field) or 0)
  local found = text(math.max(last + 1, math.floor(now / 1000)))
  call('HSET', bucket, field, found)
  return found
end

local function begin(row, store)
  local epoch = store .. next_of('epoch')
  call('HSET', row, 'e', epoch, 'l', LAYOUT)
  call('PEXPIRE', row, EXPIRY)
  return epoch
end

local function group_of(name)
  local group = {name = name, records = {}, used = {}, ended = {}}
  for _, part in ipairs({'group', 'holders', 'keys', 'order', 'left'}) do
    group[part] = bucket .. ':' .. part .. ':' .. name
  end
  local found = call('HMGET', group.group, 'l', 'e', 'n', 'f')
  group.epoch, group.number = found[2], tonumber(found[3] or 0)
  group.floor = tonumber(found[4] or 0)
  return group, too_new(found[1])
end

local function rows_of(group, life)
  return bucket .. ':rows:' .. life .. ':' .. group.name
end

local function of(life)
  return bucket .. ':of:' .. life
end

local function keep(group, life)
  for _, part in ipairs({'group', 'holders', 'keys', 'order', 'left'}) do
    call('PEXPIRE', group[part], EXPIRY)
  end
  call('PEXPIRE', rows_of(group, life), EXPIRY)
  call('ZADD', of(life), text(now), group.name)
  call('PEXPIRE', of(life), EXPIRY)
end
""".replace("LAYOUT", str(_LAYOUT))
)

# Changes of a group. After ``change(group, store)``, ``finish(group)`` returns the new version, or
# '' if there is none.
WRITING: Final = """
local function change(group, store)
  group.before = group.number
  -- Refused if the server is out of memory.
  call('HSET', group.group, 'n', text(group.number))
  if not begins(group.epoch, store) then
    group.epoch = begin(group.group, store)
  end
end

local function number(group)
  group.number = group.number + 1
  return text(group.number)
end

local function record_of(group, key)
  local record = group.records[key]
  if not record then
    record = {holders = {}}
    local found = call('HGET', group.keys, key)
    if found then
      local joined, since, holders, info = string.match(found, '^(%d+) (%d+) (%S*) (.*)$')
      record.joined, record.since, record.info = joined, since, info
      for life, count in string.gmatch(holders, '(%d+):(%d+)') do
        record.holders[life] = tonumber(count)
        record.is_present = record.is_present or is_alive(life)
      end
    end
    group.records[key] = record
    group.used[#group.used + 1] = key
  end
  return record
end

-- Finds the rows of connections.
local function find(group, connections)
  local rows, held = {}, call('HGETALL', group.holders)
  for index = 1, #held, 2 do
    local life = held[index]
    local keys = call('HMGET', rows_of(group, life), unpack(connections))
    for position, key in ipairs(keys) do
      if key then
        rows[connections[position]] = {life = life, key = key, process = held[index + 1]}
      end
    end
  end
  return rows
end

local function drop(group, life, connection, key)
  local holders = record_of(group, key).holders
  local left = (holders[life] or 1) - 1
  holders[life] = left > 0 and left or nil
  call('HDEL', rows_of(group, life), connection)
  group.ended[life] = true
end

local function finish(group)
  for _, key in ipairs(group.used) do
    local record = group.records[key]
    local holders = {}
    for life, count in pairs(record.holders) do
      holders[#holders + 1] = life .. ':' .. text(count)
    end
    if holders[1] then
      call('HSET', group.keys, key, record.joined .. ' ' .. record.since .. ' ' ..
        table.concat(holders, ',') .. ' ' .. record.info)
    elseif record.joined then
      call('ZADD', group.left, number(group), record.joined .. ' ' .. text(now) .. ' ' .. key)
      call('PEXPIRE', group.left, EXPIRY)
      call('ZADD', due, 'NX', text(now + remembered), group.name)
      call('HDEL', group.keys, key)
      call('ZREM', group.order, key)
    end
  end
  for life in pairs(group.ended) do
    if call('EXISTS', rows_of(group, life)) == 0 then
      call('HDEL', group.holders, life)
      call('ZREM', of(life), group.name)
    end
  end
  if group.number == group.before then
    return ''
  end
  call('HSET', group.group, 'n', text(group.number))
  return group.epoch .. '.' .. text(group.number)
end
"""

#: Returns ``[version or "", life]``. From ``ARGV[6]`` on: connection, key and info of each entry.
ENTER: Final = Script(
    COMMON
    + WRITING
    + """
local group, problem = group_of(ARGV[4])
if problem then
  return problem
end
local process, store = ARGV[5], open()
local life = call('HGET', processes, process)
if not life or not is_alive(life) then
  life = next_of('life')
  call('HSET', processes, process, life)
  call('HSET', names, life, process)
end
call('ZADD', lives, text(now), life)
is_alive_by_life[life] = true
change(group, store)

local connections = {}
for index = 6, #ARGV, 3 do
  connections[#connections + 1] = ARGV[index]
end
local rows = find(group, connections)
for index = 6, #ARGV, 3 do
  local connection, key, info = ARGV[index], ARGV[index + 1], ARGV[index + 2]
  local record, row = record_of(group, key), rows[connection]
  if not row or row.key ~= key or row.life ~= life then
    if row then
      drop(group, row.life, connection, row.key)
    end
    record.holders[life] = (record.holders[life] or 0) + 1
    call('HSET', rows_of(group, life), connection, key)
    rows[connection] = {life = life, key = key}
  end
  if not record.is_present or record.info ~= info then
    local changed = number(group)
    call('ZADD', group.order, changed, key)
    if not record.is_present then
      record.joined, record.since, record.is_present = record.joined or changed, text(now), true
    end
    record.info = info
  end
end
call('HSET', group.holders, life, process)
local version = finish(group)
if now - (call('ZSCORE', of(life), group.name) or 0) > AGE then
  keep(group, life)
end
return {version, life}
"""
)

#: Returns the version or ``""``. From ``ARGV[6]`` on: connections.
LEAVE: Final = Script(
    COMMON
    + WRITING
    + """
local group, problem = group_of(ARGV[4])
if problem then
  return problem
end
local process, connections = ARGV[5], {unpack(ARGV, 6)}
local rows, store = find(group, connections), open()
if not next(rows) then
  return ''
end
change(group, store)
for _, connection in ipairs(connections) do
  local row = rows[connection]
  if row and row.process == process then
    drop(group, row.life, connection, row.key)
    rows[connection] = nil
  end
end
return finish(group)
"""
)

#: Returns ``[epoch, number, is whole, number of the last key if there are more, keys with their
#: numbers, their records, leavings with their numbers]``; ``[]`` if the group has no row. ARGV[5]:
#: the epoch that the reader knows. ARGV[6]: its number. For further keys: ARGV[7]: the number of
#: the last key. ARGV[8]: whether the list is whole.
READ: Final = Script(
    COMMON
    + """
local group, problem = group_of(ARGV[4])
if problem then
  return problem
end
local store = open()
if not group.epoch then
  return {}
end
if not begins(group.epoch, store) then
  group.epoch = begin(group.group, store)
end
local since, after, is_whole = tonumber(ARGV[6]), ARGV[7], ARGV[8] == '1'
if after == '' then
  is_whole = ARGV[5] ~= group.epoch or since < group.floor or since > group.number or
    call('ZCOUNT', group.left, '(' .. text(since), '+inf') > LEAVINGS
  after = is_whole and '0' or text(since)
end
local found = call('ZRANGEBYSCORE', group.order, '(' .. after, '+inf', 'WITHSCORES',
  'LIMIT', 0, PAGE)
local keys, records, last = {}, {}, ''
for index = 1, #found, 2 do
  keys[#keys + 1] = found[index]
end
if #keys == PAGE then
  last = found[#found]
end
if keys[1] then
  records = call('HMGET', group.keys, unpack(keys))
end

local is_any_dead = false
for _, life in ipairs(call('HKEYS', group.holders)) do
  is_any_dead = is_any_dead or not is_alive(life)
end
if is_whole and is_any_dead then
  local all, those = found, records
  found, records = {}, {}
  for index, record in ipairs(those) do
    for life in string.gmatch(string.match(record, '^%d+ %d+ (%S*)'), '(%d+):') do
      if is_alive(life) then
        found[#found + 1] = all[2 * index - 1]
        found[#found + 1] = all[2 * index]
        records[#records + 1] = record
        break
      end
    end
  end
end
local left = {}
if last == '' and (ARGV[7] ~= '' or not is_whole) then
  left = call('ZRANGEBYSCORE', group.left, '(' .. text(since), '+inf', 'WITHSCORES')
end
return {group.epoch, group.number, is_whole and 1 or 0, last, found, records, left}
""".replace("PAGE", str(_PAGE)).replace("LEAVINGS", str(_LEAVINGS))
)

#: Returns the positions of the groups that have changed. From ``ARGV[4]`` on: name and version.
CHANGED: Final = Script(
    COMMON
    + """
local store, changed = open(), {}
for index = 4, #ARGV, 2 do
  local found, version = call('HMGET', bucket .. ':group:' .. ARGV[index], 'e', 'n'), 'NO_GROUP'
  if found[1] then
    version = begins(found[1], store) and found[1] .. '.' .. found[2]
  end
  if version ~= ARGV[index + 1] then
    changed[#changed + 1] = (index - 4) / 2
  end
end
return changed
""".replace("NO_GROUP", NO_GROUP)
)
