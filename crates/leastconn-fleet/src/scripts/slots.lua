-- Divides the slots of servers with `max_conns`. A member gets what it wants as long as slots
-- are free. It keeps slots until it wants fewer, because it may be using them.
--
-- KEYS: members (hash), then for each server a hash: member -> "HELD WANT"
-- ARGV: member, session and sequence, settle, extend, time of the last answer that the member has
--       received; then for each server: max, want, open, slots held by that answer, equal share
-- Returns for each server: held, free, unmet
local hour = 3600000
local me = ARGV[1]

local live = {}
local members = hash(KEYS[1])
for i = 1, #members, 2 do live[members[i]] = members[i + 1] end
if string.match(live[me] or '', '^%d+ (%d+ %d+)') ~= ARGV[2] then
  return redis.error_reply('STALE a later request of this member has been applied')
end
local since = tonumber(live['.since']) or 0
local settling = since <= now and now - since < tonumber(ARGV[3])

-- Slots expire at the member after this time, and other members may hold them now.
local is_recent = math.abs(now - tonumber(ARGV[5])) < tonumber(ARGV[3])

local answer = {}
for i = 2, #KEYS do
  local key, a = KEYS[i], 6 + (i - 2) * 5
  local max, want = tonumber(ARGV[a]), tonumber(ARGV[a + 1])
  local open, own, share = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  if not is_recent then own = math.min(own, share) end
  local others, unmet, stored = 0, 0, false
  local fields = hash(key)
  for j = 1, #fields, 2 do
    if fields[j] == me then
      stored = fields[j + 1]
    elseif live[fields[j]] then
      local held, wanted = string.match(fields[j + 1], '^(%d+) (%d+)$')
      others = math.min(others + tonumber(held or '0'), most)
      unmet = math.min(unmet + math.max(0, tonumber(wanted or '0') - tonumber(held or '0')), most)
    else
      redis.call('HDEL', key, fields[j])
    end
  end
  local held = math.min(want, math.max(0, max - others))
  if settling then held = math.min(held, own) end
  held = math.max(held, open)
  if held > 0 or want > 0 then
    local text = string.format('%.0f %.0f', held, want)
    if text ~= stored then redis.call('HSET', key, me, text) end
    if text ~= stored or ARGV[4] == '1' then redis.call('PEXPIRE', key, hour) end
  elseif stored then
    redis.call('HDEL', key, me)
  end
  answer[i - 1] = { held, math.max(0, max - others - held), unmet }
end
return answer
