"""The scripts of ``RedisPresence`` for the lives of processes; see ``redis_scripts``."""

from __future__ import annotations

from typing import Final

from ..backends.redis import Script
from .redis_scripts import COMMON, WRITING

__all__ = ["EXPIRE", "RENEW", "RETURN"]

#: The most rows that one call of EXPIRE removes, so that it does not block the server for long.
_REMOVED: Final = 100

#: The most groups whose expiry one call of RENEW sets.
_KEPT: Final = 50

#: Returns the life of a process after a sign of it; ``""`` if it has none. ARGV[4]: the process.
RENEW: Final = Script(
    COMMON
    + """
open()
local life = call('HGET', processes, ARGV[4])
if not life or not is_alive(life) then
  return ''
end
call('ZADD', lives, text(now), life)
for _, key in ipairs({bucket, processes, names, lives, due}) do
  call('PEXPIRE', key, EXPIRY)
end
local old = call('ZRANGEBYSCORE', of(life), '-inf', text(now - AGE), 'LIMIT', 0, KEPT)
for _, name in ipairs(old) do
  keep(group_of(name), life)
end
return life
""".replace("KEPT", str(_KEPT))
)

#: Lets all processes live on that have lived when the store was last available. Readers that have
#: found a list without them read the whole list again.
RETURN: Final = Script(
    COMMON
    + """
local store = open()
for _, life in ipairs(started()) do
  if not is_alive(life) then
    for _, name in ipairs(call('ZRANGE', of(life), 0, -1)) do
      begin(bucket .. ':group:' .. name, store)
    end
  end
  call('ZADD', lives, text(now), life)
end
"""
)

#: Returns ``[is there more to do, name, version, ...]``.
EXPIRE: Final = Script(
    COMMON
    + WRITING
    + """
local store, reply, left = open(), {0}, REMOVED

for _, life in ipairs(started()) do
  if not is_alive(life) then
    call('ZADD', lives, 0, life)
    local process = call('HGET', names, life)
    if process and call('HGET', processes, process) == life then
      call('HDEL', processes, process)
    end
  end
end

local function remove(life, name)
  local group, problem = group_of(name)
  if problem then
    return problem
  end
  change(group, store)
  local rows, cursor = rows_of(group, life), '0'
  repeat
    local found = call('HSCAN', rows, cursor, 'COUNT', 50)
    cursor = found[1]
    for index = 1, #found[2], 2 do
      drop(group, life, found[2][index], found[2][index + 1])
      left = left - 1
    end
  until cursor == '0' or left <= 0
  group.ended[life] = true
  left = left - 1
  local version = finish(group)
  if version ~= '' then
    reply[#reply + 1] = name
    reply[#reply + 1] = version
  end
end

local function forget(name)
  local group, problem = group_of(name)
  if problem then
    return problem
  end
  change(group, store)
  local last, next_due
  for _, entry in ipairs(call('ZRANGE', group.left, 0, left)) do
    next_due = string.match(entry, '^%d+ (%d+)') + remembered
    if next_due > now then
      break
    end
    last, left = entry, left - 1
  end
  if last then
    local floor = call('ZSCORE', group.left, last)
    call('HSET', group.group, 'f', floor)
    call('ZREMRANGEBYSCORE', group.left, '-inf', floor)
  end
  left = left - 1
  if call('EXISTS', group.left) == 1 then
    call('ZADD', due, text(next_due), name)
    return
  end
  call('ZREM', due, name)
  if call('EXISTS', group.keys) == 0 then
    call('DEL', group.group)
  end
end

for _, life in ipairs(call('ZRANGEBYSCORE', lives, 0, 0)) do
  for _, name in ipairs(call('ZRANGE', of(life), 0, left)) do
    local problem = left > 0 and remove(life, name)
    if problem then
      return problem
    end
  end
  if call('EXISTS', of(life)) == 0 then
    call('ZREM', lives, life)
    call('HDEL', names, life)
  end
end
for _, name in ipairs(call('ZRANGEBYSCORE', due, '-inf', text(now), 'LIMIT', 0, left)) do
  local problem = left > 0 and forget(name)
  if problem then
    return problem
  end
end
reply[1] = left > 0 and 0 or 1
return reply
""".replace("REMOVED", str(_REMOVED))
)
