-- Removes a member. Its fields of clients and slots count no longer, because it is not among the
-- members. Its last request is remembered, so that one that arrives later is ignored.
--
-- KEYS: members (hash), counts (hash), facts (hash), members that are gone (hash)
-- ARGV: member, session and sequence
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local hour = 3600000

-- A key of another type, which no member has written, is replaced.
for i = 1, 4 do
  local reply = redis.pcall('HGET', KEYS[i], ARGV[1])
  if type(reply) == 'table' and reply.err and string.find(reply.err, 'WRONGTYPE', 1, true) then
    redis.call('PEXPIRE', KEYS[i], 0)
  end
end
local value = redis.call('HGET', KEYS[1], ARGV[1]) or ''
local batch = string.match(value, '^%d+ %d+ %d+ (%d+)') or '0'
local record = string.format('%.0f', now) .. ' ' .. ARGV[2] .. ' ' .. batch .. ' 0'
redis.call('HSET', KEYS[4], ARGV[1], record)
redis.call('PEXPIRE', KEYS[4], hour)
for i = 1, 3 do redis.call('HDEL', KEYS[i], ARGV[1]) end
