-- Gives uniqkeys free whose holders are over. Atomic: a key that another job holds by now stays.
--
-- KEYS  1 hash unique: key -> holder
-- ARGV  for each: key, holder
-- Result  keys given free

local freed = 0
for at = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[at]) == ARGV[at + 1] then
    freed = freed + redis.call('HDEL', KEYS[1], ARGV[at])
  end
end
return freed
