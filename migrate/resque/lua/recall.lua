-- Gives a job that a worker has taken the keys back that it left behind when it was delayed. Atomic.
--
-- KEYS  1 string worker:<id>, the note   2 hash retrying: content -> lines of keys left behind
-- ARGV  1 how the note must begin, up to its payload   2 field   3 the payload's text
-- Result  the inside of an object, now in front of the note's payload; "" when there is none

local lines = redis.call('HGET', KEYS[2], ARGV[2])
local note = redis.call('GET', KEYS[1]) or ''
if not lines or string.sub(note, 1, #ARGV[1]) ~= ARGV[1] then return '' end
local line, rest = string.match(lines, '^([^\n]*)\n(.*)$')
line = line or lines
local payload = '{' .. line .. ',' .. string.gsub(ARGV[3], '^%s*{', '', 1)
redis.call('SET', KEYS[1], ARGV[1] .. payload .. '}')
if rest then
  redis.call('HSET', KEYS[2], ARGV[2], rest)
else
  redis.call('HDEL', KEYS[2], ARGV[2])
end
return line
