-- Writes the beat: this Redis's own clock, never backwards. Atomic.
--
-- KEYS  1 string target id   2 string beat
-- ARGV  1 target id that the caller is bound to
-- Result  {"ok", beat}, or {"target", id found or ""} and nothing written

local id = redis.call('GET', KEYS[1])
if id ~= ARGV[1] then
  return {'target', id or ''}
end
local now = tonumber(redis.call('TIME')[1])
local beat = math.max(now, tonumber(redis.call('GET', KEYS[2]) or '0'))
local reply = redis.pcall('SET', KEYS[2], string.format('%d', beat))
if reply.err then return reply end
return {'ok', string.format('%d', beat)}
