-- Stores what operators set. The entry with the greatest stamp wins.
--
-- KEYS: entries (hash: field -> "STAMP EXPIRES CONFIRMED SIGNATURE JSON", and `v`: version),
--       events (stream)
-- ARGV: number of entries; for each entry: field, stamp, time of the confirmation, SHA-1 of an
--       invalid text that it replaces in any case or '', text or '' (remove the invalid text);
--       then events
-- Returns for each entry that was not stored, because there is a newer one: field, stored text,
-- SHA-1 of the stored text
local day = 86400000

repair(KEYS[1], 'HGET', 'v')
repair(KEYS[2], 'XRANGE', '-', '+', 'COUNT', 1)

local entries = tonumber(ARGV[1])
local rejected, changed = {}, false
for i = 2, 5 * entries + 1, 5 do
  local field, stamp, confirmed = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local replaced, text = ARGV[i + 3], ARGV[i + 4]
  local stored = redis.call('HGET', KEYS[1], field)
  local digest = stored and redis.sha1hex(stored)
  local is_older = true
  if stored then
    local known = tonumber(string.match(stored, '^%d+') or '0')
    local known_confirmed = tonumber(string.match(stored, '^%d+ %d+ (%d+) ') or '0')
    is_older = known < stamp or (known == stamp and known_confirmed < confirmed)
  end
  if text == '' then
    if digest == replaced then
      redis.call('HDEL', KEYS[1], field)
      changed = true
    end
  elseif is_older or digest == replaced then
    redis.call('HSET', KEYS[1], field, text)
    changed = true
  elseif stored ~= text then
    rejected[#rejected + 1] = { field, stored, digest }
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
for i = 5 * entries + 2, #ARGV do
  redis.call('XADD', KEYS[2], 'MAXLEN', 1000, '*', 'e', ARGV[i])
  redis.call('PEXPIRE', KEYS[2], day)
end
return rejected
