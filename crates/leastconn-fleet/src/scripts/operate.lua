-- Stores what operators set. The entry with the greatest stamp wins.
--
-- KEYS: entries (hash: field -> "STAMP EXPIRES SIGNATURE JSON", and `v`: version), events (stream)
-- ARGV: number of entries; for each entry: field, stamp, text; then events
-- Returns the fields that have a newer entry.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local day = 86400000

-- A key of another type, which no member has written, is replaced.
local function repair(key, command, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err and string.find(reply.err, 'WRONGTYPE', 1, true) then
    redis.call('PEXPIRE', key, 0)
  end
end
repair(KEYS[1], 'HGET', 'v')
repair(KEYS[2], 'XRANGE', '-', '+', 'COUNT', 1)

local entries = tonumber(ARGV[1])
local rejected, changed = {}, false
for i = 2, 3 * entries + 1, 3 do
  local field, stamp, text = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local stored = redis.call('HGET', KEYS[1], field)
  if not stored or tonumber(string.match(stored, '^%d+') or '0') < stamp then
    redis.call('HSET', KEYS[1], field, text)
    changed = true
  elseif stored ~= text then
    rejected[#rejected + 1] = field
  end
end
if changed then
  local all, changes = redis.call('HGETALL', KEYS[1]), 0
  for i = 1, #all, 2 do
    if all[i] == 'v' then
      changes = tonumber(string.match(all[i + 1], '%d+$') or '0')
    else
      local expires = tonumber(string.match(all[i + 1], '^%d+ (%d+)') or '0')
      if expires > 0 and expires <= now then redis.call('HDEL', KEYS[1], all[i]) end
    end
  end
  redis.call('HSET', KEYS[1], 'v', string.format('%.0f.%.0f', now, changes + 1))
  redis.call('PEXPIRE', KEYS[1], day)
end
for i = 3 * entries + 2, #ARGV do
  redis.call('XADD', KEYS[2], 'MAXLEN', 1000, '*', 'e', ARGV[i])
  redis.call('PEXPIRE', KEYS[2], day)
end
return rejected
