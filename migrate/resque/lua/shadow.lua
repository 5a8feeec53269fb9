-- Keeps shadow copies of jobs that run in Qudo, the newest so many of a func. Atomic.
--
-- KEYS  1 hash mirror: "<source>:<job id>" -> func, payload and arg (MessagePack)   2 list of its fields, the oldest first
--       3 hash of counts: "<func>:<word>" -> jobs
-- ARGV  1 how many copies to keep   2 func   3 how many more were missed   then for each copy: field, value
-- Result  copies kept now

for at = 4, #ARGV, 2 do
  if redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) == 1 then
    redis.call('RPUSH', KEYS[2], ARGV[at])
  end
end
local copied = (#ARGV - 3) / 2
if copied > 0 then redis.call('HINCRBY', KEYS[3], ARGV[2] .. ':copied', copied) end
if ARGV[3] ~= '0' then redis.call('HINCRBY', KEYS[3], ARGV[2] .. ':missed', ARGV[3]) end
while redis.call('LLEN', KEYS[2]) > tonumber(ARGV[1]) do
  redis.call('HDEL', KEYS[1], redis.call('LPOP', KEYS[2]))
end
return redis.call('LLEN', KEYS[2])
