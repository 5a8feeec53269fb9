-- Settles the job of a worker that has died and takes the worker off all lists. Atomic: two that bury the same worker
-- record its job once. Needs guard.lua and settle.lua before it.
--
-- KEYS  1 … 9 as turn.lua, of the dead worker   10 set workers   11 hash workers:heartbeat   12 hash our workers
--       13 string worker:<id>:started   14 string worker:ping:<id> (node-resque)
-- ARGV  1 … 12 as `settle` has them; 2 is "" when it had no job   13 worker id
--       14 the heartbeat it is judged by ("": judged by its process)
-- Result  {"buried"}; {"alive"}: it has beaten meanwhile; {"busy"}: it has taken a job meanwhile; {"lost"}, {"type", …}

if ARGV[14] ~= '' and redis.call('HGET', KEYS[11], ARGV[13]) ~= ARGV[14] then
  return {'alive'}
end
if ARGV[2] ~= '' then
  local refused = settle(KEYS, ARGV)
  if refused and refused[1] ~= 'lost' then return refused end
elseif redis.call('EXISTS', KEYS[1]) == 1 then
  return {'busy'}
end
redis.call('SREM', KEYS[10], ARGV[13])
redis.call('HDEL', KEYS[11], ARGV[13])
redis.call('HDEL', KEYS[12], ARGV[13])
redis.call('DEL', KEYS[4], KEYS[5], KEYS[13], KEYS[14])
return {'buried'}
