-- Hands off one job that an app has just written: as handoff.lua does, with the same checks, the same bit and the same
-- layout, and without what only many jobs need. Atomic.
--
-- KEYS
--   1 string target id   2 string beat   3 string version of what is paused   4 hash batches: batch -> source name
--   5 string the batch's ledger bitmap   6 set queues   7 list queue:<name>
--   and for a job that is due later:  8 zset delayed_queue_schedule   9 list delayed:<second>   10 set timestamps:<text>
-- ARGV
--   1 target id that the source is bound to   2 newest beat that it saw   3 seconds that this Redis may be behind it
--   4 version of what the caller knows to be paused   5 batch (16 hex digits)   6 source name
--   7 seq   8 queue   9 payload   and for a job that is due later:  10 due (Unix second)   11 text for the delayed list
--
-- Result  {"ok", 1 when pushed, else 0: it was there, 1 or 0}; else nothing was written: {"target", …}, {"behind", …},
--         {"paused", …}, {"type", …} as handoff.lua, or an error reply

-- Types are not asked for, as handoff.lua does: each command that could meet a wrong one stands before the push, or is
-- the push, and what stands before it does no harm by itself.

local held = redis.call('MGET', KEYS[1], KEYS[2], KEYS[3])
if held[1] ~= ARGV[1] then
  return {'target', held[1] or ''}
end
local known = tonumber(ARGV[2])
if known > 0 and tonumber(held[2] or '0') < known - tonumber(ARGV[3]) then
  return {'behind', held[2] or '0'}
end
if (held[3] or '0') ~= ARGV[4] then
  return {'paused', held[3] or '0'}
end

-- An error reply, or {"type", key, kind} where the key has another type.
local function refused(reply, key)
  if type(reply) ~= 'table' or not reply.err then return nil end
  if string.find(reply.err, 'WRONGTYPE', 1, true) then
    return {'type', key, redis.call('TYPE', key).ok}
  end
  return reply
end

local bit = redis.pcall('GETBIT', KEYS[5], ARGV[7])
if bit == 1 then
  return {'ok', 0, 1}
end
local wrong = refused(bit, KEYS[5]) or refused(redis.pcall('HSETNX', KEYS[4], ARGV[5], ARGV[6]), KEYS[4])
if wrong then return wrong end
if ARGV[10] and tonumber(ARGV[10]) > tonumber(redis.call('TIME')[1]) then
  wrong = refused(redis.pcall('ZCARD', KEYS[8]), KEYS[8]) or refused(redis.pcall('SCARD', KEYS[10]), KEYS[10])
    or refused(redis.pcall('RPUSH', KEYS[9], ARGV[11]), KEYS[9])
  if wrong then return wrong end
  redis.call('SETBIT', KEYS[5], ARGV[7], 1)
  redis.call('SADD', KEYS[10], 'delayed:' .. ARGV[10])
  redis.call('ZADD', KEYS[8], ARGV[10], ARGV[10])
else
  wrong = refused(redis.pcall('SADD', KEYS[6], ARGV[8]), KEYS[6]) or refused(redis.pcall('RPUSH', KEYS[7], ARGV[9]), KEYS[7])
  if wrong then return wrong end
  redis.call('SETBIT', KEYS[5], ARGV[7], 1)
end
return {'ok', 1, 0}
