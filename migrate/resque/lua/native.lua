-- Pushes one job that is born in Resque, and holds its uniqkey: of two jobs under one key only one is ever there.
-- Atomic.
--
-- KEYS
--   1 string target id   2 set queues   3 list queue:<name>
--   with a key or a due second:  4 hash unique: key -> holder
--   with a due second:  5 zset delayed_queue_schedule   6 list delayed:<second>   7 set timestamps:<text>
-- ARGV
--   1 target id that the caller knows   2 "push", or "claim": only hold the key   3 queue   4 payload
--   5 key ("": none)   6 holder: what names this job   7 holder that is over and may be replaced ("": none)
--   8 due (Unix second; "": at once)   9 text for the delayed list
--
-- Result  {"ok"}   {"held", holder}: nothing was written   {"target", id found or ""}   {"type", key, its type}
--         or an error reply, and nothing written

-- Types are not asked for: see enqueue.lua.

local id = redis.call('GET', KEYS[1])
if id ~= ARGV[1] then
  return {'target', id or ''}
end

-- An error reply, or {"type", key, kind} where the key has another type.
local function refused(reply, key)
  if type(reply) ~= 'table' or not reply.err then return nil end
  if string.find(reply.err, 'WRONGTYPE', 1, true) then
    return {'type', key, redis.call('TYPE', key).ok}
  end
  return reply
end

local wrong
local keyed = ARGV[5] ~= ''
if keyed then
  local holder = redis.pcall('HGET', KEYS[4], ARGV[5])
  wrong = refused(holder, KEYS[4])
  if wrong then return wrong end
  if holder and holder ~= ARGV[6] and holder ~= ARGV[7] then
    return {'held', holder}
  end
end
if ARGV[2] == 'push' then
  if ARGV[8] ~= '' and tonumber(ARGV[8]) > tonumber(redis.call('TIME')[1]) then
    wrong = refused(redis.pcall('ZCARD', KEYS[5]), KEYS[5]) or refused(redis.pcall('SCARD', KEYS[7]), KEYS[7])
      or refused(redis.pcall('RPUSH', KEYS[6], ARGV[9]), KEYS[6])
    if wrong then return wrong end
    redis.call('SADD', KEYS[7], 'delayed:' .. ARGV[8])
    redis.call('ZADD', KEYS[5], ARGV[8], ARGV[8])
  else
    wrong = refused(redis.pcall('SADD', KEYS[2], ARGV[3]), KEYS[2])
      or refused(redis.pcall('RPUSH', KEYS[3], ARGV[4]), KEYS[3])
    if wrong then return wrong end
  end
end
if keyed then
  local reply = redis.pcall('HSET', KEYS[4], ARGV[5], ARGV[6])
  if ARGV[2] == 'claim' and type(reply) == 'table' and reply.err then return reply end
end
return {'ok'}
