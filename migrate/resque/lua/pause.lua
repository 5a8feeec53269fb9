-- Changes what is paused, and the version by which every hand-off notices. Atomic.
--
-- KEYS  1 hash paused: func glob -> who, where and when (JSON)   2 string version, counted up with each change
-- ARGV  1 "pause" or "resume"   2 glob   3 note (JSON), for pause
-- Result  1 when something changed, else 0

local changed
if ARGV[1] == 'pause' then
  changed = redis.call('HSETNX', KEYS[1], ARGV[2], ARGV[3])
else
  changed = redis.call('HDEL', KEYS[1], ARGV[2])
end
if changed == 1 then
  redis.call('INCR', KEYS[2])
end
return changed
