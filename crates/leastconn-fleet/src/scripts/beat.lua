-- Registers the member and its counts, removes members that are gone, and returns what has
-- changed.
--
-- KEYS: members (hash: member -> "HEARD SESSION SEQUENCE BATCH", and `.since`), counts (hash),
--       facts (hash), entries of operators (hash), events (stream)
-- ARGV: member, session and sequence, gone_after, extend, counts or '' (unchanged), version of
--       the counts, facts or '' (unchanged), version of the entries, last event or '' (none);
--       then for each known member: member, version of its counts, version of its facts
-- Returns: now, previous sequence, whether the counts and the facts are stored, members with
--       what has changed, version and entries if changed, events, last event
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local day = 86400000
local me, gone_after = ARGV[1], tonumber(ARGV[3])
local now_text = string.format('%.0f', now)

-- A key of another type, which no member has written, is replaced.
local function repair(key, command, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err and string.find(reply.err, 'WRONGTYPE', 1, true) then
    redis.call('PEXPIRE', key, 0)
  end
end
-- Only after a failure and every 20 s, because it takes time.
if ARGV[4] == '1' then
  for i = 1, 4 do repair(KEYS[i], 'HGET', me) end
  repair(KEYS[5], 'XRANGE', '-', '+', 'COUNT', 1)
end

local own_session, own_sequence = string.match(ARGV[2], '^(%d+) (%d+)$')
-- Names of the other members after that of this one, for HMGET.
local names, others, gone = { me }, {}, {}
local alive, previous, batch = false, 0, '0'
local members = redis.call('HGETALL', KEYS[1])
for i = 1, #members, 2 do
  local member, value = members[i], members[i + 1]
  if member == me then
    local heard, session, sequence, number = string.match(value, '^(%d+) (%d+) (%d+) (%d+)$')
    if session == own_session and tonumber(sequence) > tonumber(own_sequence) then
      return redis.error_reply('STALE a later request of this member has been applied')
    end
    if heard and now - tonumber(heard) < gone_after then
      alive, batch = true, number
      if session == own_session then previous = tonumber(sequence) end
    end
  elseif member ~= '.since' then
    local heard = tonumber(string.match(value, '^%d+') or '0')
    if now - heard >= gone_after then
      gone[#gone + 1] = member
    else
      if heard > now then
        -- A replica whose clock is behind was promoted.
        heard = now
        redis.call('HSET', KEYS[1], member, now_text .. (string.match(value, ' .*$') or ''))
      end
      names[#names + 1] = member
      others[#others + 1] = { member, heard }
    end
  end
end
-- Other members may have removed the numbers of this member, if it was gone.
if not alive then gone[#gone + 1] = me end
for _, member in ipairs(gone) do
  for i = 1, 3 do redis.call('HDEL', KEYS[i], member) end
end
local own = now_text .. ' ' .. ARGV[2] .. ' ' .. batch
if alive or #others > 0 then
  redis.call('HSET', KEYS[1], me, own)
else
  redis.call('HSET', KEYS[1], me, own, '.since', now_text)
end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[2], me, ARGV[5]) end
if ARGV[7] ~= '' then redis.call('HSET', KEYS[3], me, ARGV[7]) end

local known = {}
for i = 10, #ARGV, 3 do known[ARGV[i]] = i end
local function changed(blob, member, offset)
  local at = known[member]
  if blob and at and string.sub(blob, 1, 8) == ARGV[at + offset] then return false end
  return blob
end
local counts = redis.call('HMGET', KEYS[2], unpack(names))
local facts = redis.call('HMGET', KEYS[3], unpack(names))
for i, other in ipairs(others) do
  other[3] = changed(counts[i + 1], other[1], 1)
  other[4] = changed(facts[i + 1], other[1], 2)
end
local has_counts = counts[1] and string.sub(counts[1], 1, 8) == ARGV[6]
local has_facts = facts[1]

local version = redis.call('HGET', KEYS[4], 'v') or ''
version = string.match(version, '^%d+%.%d+$') or '0.0'
local entries = false
if version ~= ARGV[8] then entries = { version, redis.call('HGETALL', KEYS[4]) } end

local events, last = {}, ARGV[9]
if last == '' then
  local newest = redis.call('XREVRANGE', KEYS[5], '+', '-', 'COUNT', 1)
  last = newest[1] and newest[1][1] or '0-0'
else
  for i, event in ipairs(redis.call('XRANGE', KEYS[5], '(' .. last, '+', 'COUNT', 64)) do
    events[i] = event[2][2]
    last = event[1]
  end
end
if ARGV[4] == '1' then
  for i = 1, 5 do redis.call('PEXPIRE', KEYS[i], day) end
end
return { now, previous, has_counts and 1 or 0, has_facts and 1 or 0, others, entries, events, last }
