-- Takes the tokens of a batch, admits connections that wait, and returns the numbers of each
-- client.
--
-- KEYS: members (hash), then for each client a hash: `.used` and `.at` of the bucket,
--       member -> open connections
-- ARGV: member, session and sequence, batch, settle, number of members; then for each client:
--       admitted, ask, rate, burst, max_conns (0: none), open, tokens in use by the last answer
--       that the member has received (-1: none)
-- Returns for each client: granted, used, connections of other members, wait
local second, year, keep_open = 1000000, 31536000000, 3600000
local me, batch = ARGV[1], tonumber(ARGV[3])

local live = {}
local members = hash(KEYS[1])
for i = 1, #members, 2 do live[members[i]] = members[i + 1] end
local heard, sequence, last, lifetime =
  string.match(live[me] or '', '^(%d+) (%d+ %d+) (%d+) (%d+)$')
if sequence ~= ARGV[2] then
  return redis.error_reply('STALE a later request of this member has been applied')
end
-- A batch that is repeated, because its answer was lost, takes no tokens again.
local repeated = tonumber(last) >= batch
if not repeated then
  local record = heard .. ' ' .. sequence .. ' ' .. ARGV[3] .. ' ' .. lifetime
  redis.call('HSET', KEYS[1], me, record)
end
-- After a loss of data or an outage, members may not have reported their numbers yet. Until they
-- have, no member gets more than its share.
local function is_recent(text)
  local time = number(text, 0)
  return time <= now and now - time < tonumber(ARGV[4])
end
local settles, wiped = is_recent(live['.lost']), is_recent(live['.wiped'])
local count = math.max(tonumber(ARGV[5]), 1)

local function limit(key, a)
  local admitted, ask = tonumber(ARGV[a]), tonumber(ARGV[a + 1])
  local rate, burst = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local max_conns, open = tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])
  local reported = tonumber(ARGV[a + 6])
  if repeated then admitted, ask = 0, 0 end

  local used, at, others, stored, bucket = 0, now, 0, false, false
  local fields = hash(key)
  for i = 1, #fields, 2 do
    local field, value = fields[i], fields[i + 1]
    if field == '.used' then
      used, bucket = number(value, 0), true
    elseif field == '.at' then
      at = number(value, now)
    elseif field == me then
      stored = value
    elseif live[field] then
      others = math.min(others + number(value, 0), most)
    else
      redis.call('HDEL', key, field)
    end
  end

  local granted, wait = ask, 0
  if rate > 0 then
    -- The time of the client may be in the future, if a replica was promoted.
    used = math.max(0, used - math.max(0, now - at) * rate / second)
    if wiped then
      if reported < 0 then reported = burst - math.ceil(burst / count) end
      used = math.max(used, reported)
    end
    used = used + admitted
    granted = math.min(granted, math.max(0, math.floor(burst - used + 0.000001)))
  else
    used = 0
  end
  local reserved = others
  if max_conns > 0 then
    if settles then reserved = math.max(others, max_conns - math.ceil(max_conns / count)) end
    granted = math.min(granted, math.max(0, max_conns - reserved - open))
  end
  if rate > 0 then
    -- The debt is bounded, so that a client waits for two bursts at most.
    used = math.min(used + granted, 2 * burst)
    if used + 1 > burst then wait = math.ceil((used + 1 - burst) * second / rate) end
  end
  open = open + granted

  local used_text = string.format('%.6f', used)
  used = tonumber(used_text)
  local set = {}
  if used > 0 then
    set = { '.used', used_text, '.at', string.format('%.0f', now) }
  elseif bucket then
    redis.call('HDEL', key, '.used', '.at')
  end
  if open > 0 then
    local text = string.format('%.0f', open)
    if text ~= stored then
      set[#set + 1] = me
      set[#set + 1] = text
    end
  elseif stored then
    redis.call('HDEL', key, me)
  end
  if #set > 0 then redis.call('HSET', key, unpack(set)) end
  if used > 0 or open > 0 or others > 0 then
    local keep = 0
    if used > 0 then keep = math.ceil(used * 1000 / rate) + 1000 end
    if open > 0 or others > 0 then keep = math.max(keep, keep_open) end
    redis.call('PEXPIRE', key, string.format('%.0f', math.min(keep, year)))
  end
  return { granted, used_text, reserved, string.format('%.0f', wait) }
end

local answer = {}
for i = 2, #KEYS do answer[i - 1] = limit(KEYS[i], 6 + (i - 2) * 7) end
return answer
