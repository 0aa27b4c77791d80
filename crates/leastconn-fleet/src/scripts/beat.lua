-- Registers the member and its counts, removes members that are gone, and returns what has
-- changed.
--
-- KEYS: members (hash: member -> "HEARD SESSION SEQUENCE BATCH GONE_AFTER", `.since`: start of the
--       fleet, `.lost`: when members were missing, `.wiped`: when data was lost), counts (hash),
--       facts (hash), entries of operators (hash), events (stream), members that are gone (hash,
--       as members)
-- ARGV: member, session and sequence, gone_after, extend, counts or '' (unchanged), version of
--       the counts, facts or '' (unchanged), version of the entries, last event or '' (none),
--       sequence and time of the last answer that the member has received;
--       then for each known member: member, version of its counts, version of its facts
-- Returns: now, previous sequence, whether the counts and the facts are stored, members with
--       what has changed, version and entries if changed, events, last event, whether the fleet
--       settles after a loss of data
local day, hour = 86400000, 3600000
-- The greatest `gone_after` of a configuration.
local longest = 600000000
local me, gone_after = ARGV[1], tonumber(ARGV[3])
local now_text = string.format('%.0f', now)

-- Only after a failure and every 20 s, because it takes time.
if ARGV[4] == '1' then
  for i = 1, 4 do repair(KEYS[i], 'HGET', me) end
  repair(KEYS[5], 'XRANGE', '-', '+', 'COUNT', 1)
  repair(KEYS[6], 'HGET', me)
end

local own_session, own_sequence = string.match(ARGV[2], '^(%d+) (%d+)$')
local acknowledged, answered = tonumber(ARGV[10]), tonumber(ARGV[11])
local record = '^(%d+) (%d+) (%d+) (%d+) (%d+)$'
local function is_stale(session, sequence)
  return session == own_session and tonumber(sequence) > tonumber(own_sequence)
end
local stale = 'STALE a later request of this member has been applied'
-- Names of the other members after that of this one, for HMGET.
local names, others, gone, records = { me }, {}, {}, {}
local known, alive, previous, batch = false, false, 0, '0'
-- The sequence of the last request of this session, also if the member was gone since.
local stored = 0
local lost_at, wiped_at = 0, 0
local members = redis.call('HGETALL', KEYS[1])
for i = 1, #members, 2 do
  local member, value = members[i], members[i + 1]
  if member == me then
    local heard, session, sequence, number = string.match(value, record)
    if is_stale(session, sequence) then return redis.error_reply(stale) end
    if heard then
      known, batch = true, number
      alive = now - tonumber(heard) < gone_after
      if session == own_session then stored = tonumber(sequence) end
      if alive then previous = stored end
    end
  elseif member == '.lost' then
    lost_at = tonumber(string.match(value, '^%d+$') or '0')
  elseif member == '.wiped' then
    wiped_at = tonumber(string.match(value, '^%d+$') or '0')
  elseif member ~= '.since' then
    local heard = tonumber(string.match(value, '^%d+') or '0')
    local lifetime = tonumber(string.match(value, '^%d+ %d+ %d+ %d+ (%d+)$') or gone_after)
    if now - heard >= math.min(lifetime, longest) then
      gone[#gone + 1] = member
      if string.match(value, record) then
        records[#records + 1] = member
        records[#records + 1] = value
      end
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
-- The member has left, or another one has removed it.
if not known then
  local value = redis.call('HGET', KEYS[6], me)
  if value then
    local _, session, sequence, number = string.match(value, record)
    if is_stale(session, sequence) then return redis.error_reply(stale) end
    batch = number or '0'
    if session == own_session then stored = tonumber(sequence) end
    redis.call('HDEL', KEYS[6], me)
  end
end
-- The last batch of a member that is gone is kept, so that it is not counted again if it returns.
if #records > 0 then
  local all = redis.call('HGETALL', KEYS[6])
  for i = 1, #all, 2 do
    local heard = tonumber(string.match(all[i + 1], '^%d+') or '0')
    if now - heard >= hour * 1000 then redis.call('HDEL', KEYS[6], all[i]) end
  end
  redis.call('HSET', KEYS[6], unpack(records))
  redis.call('PEXPIRE', KEYS[6], hour)
end
-- Other members may have removed the numbers of this member, if it was gone.
if not alive then gone[#gone + 1] = me end
for _, member in ipairs(gone) do
  for i = 1, 3 do redis.call('HDEL', KEYS[i], member) end
end
local own = now_text .. ' ' .. ARGV[2] .. ' ' .. batch .. ' ' .. ARGV[3]
redis.call('HSET', KEYS[1], me, own)
-- The store was restarted, a failover lost writes, or no member has reached the store for a while:
-- members may be missing. This is not noted again by each member that notices it.
local function is_recent(time) return time <= now and now - time < gone_after end
local settles = is_recent(lost_at)
-- A loss that was noted after the last answer is not another one.
local wiped = stored < acknowledged and answered > wiped_at and
  (#others == 0 or now - answered < hour * 1000)
if wiped then redis.call('HSET', KEYS[1], '.wiped', now_text) end
if wiped or (previous < acknowledged and #others == 0) then
  if not settles then redis.call('HSET', KEYS[1], '.lost', now_text, '.since', now_text) end
  settles = true
elseif not alive and #others == 0 then
  redis.call('HSET', KEYS[1], '.since', now_text)
end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[2], me, ARGV[5]) end
if ARGV[7] ~= '' then redis.call('HSET', KEYS[3], me, ARGV[7]) end

local versions = {}
for i = 12, #ARGV, 3 do versions[ARGV[i]] = i end
local function changed(blob, member, offset)
  local at = versions[member]
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
return {
  now, previous, has_counts and 1 or 0, has_facts and 1 or 0, others, entries, events, last,
  settles and 1 or 0,
}
