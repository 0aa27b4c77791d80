-- The start of every script.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

-- A key of another type, which no member has written, is replaced.
local function repair(key, command, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err and string.find(reply.err, 'WRONGTYPE', 1, true) then
    redis.call('PEXPIRE', key, 0)
  end
end

-- The fields of a hash, after the same repair.
local function hash(key)
  local fields = redis.pcall('HGETALL', key)
  if fields.err then
    if string.find(fields.err, 'WRONGTYPE', 1, true) then redis.call('PEXPIRE', key, 0) end
    fields = redis.call('HGETALL', key)
  end
  return fields
end

-- Values that no member has written count as `default`.
local most = 4294967295
local function number(text, default)
  local value = tonumber(text)
  if not value or not (value >= 0) then return default end
  return value
end
