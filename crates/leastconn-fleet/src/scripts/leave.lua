-- Removes a member. Its fields of clients and slots count no longer, because it is not among the
-- members. Its last request is remembered, so that one that arrives later is ignored.
--
-- KEYS: members (hash), counts (hash), facts (hash), members that are gone (hash)
-- ARGV: member, session and sequence
local hour = 3600000

for i = 1, 4 do repair(KEYS[i], 'HGET', ARGV[1]) end
local value = redis.call('HGET', KEYS[1], ARGV[1]) or ''
local batch = string.match(value, '^%d+ %d+ %d+ (%d+)') or '0'
local record = string.format('%.0f', now) .. ' ' .. ARGV[2] .. ' ' .. batch .. ' 0'
redis.call('HSET', KEYS[4], ARGV[1], record)
redis.call('PEXPIRE', KEYS[4], hour)
for i = 1, 3 do redis.call('HDEL', KEYS[i], ARGV[1]) end
