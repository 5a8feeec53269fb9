-- Sets the steps of funcs, and counts the change up, by which every process notices. Atomic.
--
-- KEYS  1 hash steps: func -> note (JSON)   2 string version, counted up with each change
-- ARGV  1 the version that the caller has read   then for each func: name, note
-- Result  the new version; -1 and nothing changed when another version stands there

local version = tonumber(redis.call('GET', KEYS[2]) or '0')
if version ~= tonumber(ARGV[1]) then
  return -1
end
for at = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
end
return redis.call('INCR', KEYS[2])
