-- Hands off the jobs of one batch, each once: pushes those whose ledger bit is clear, then sets the bit.
-- Atomic: no other client sees a push without its bit. Nothing is written unless every check passes.
-- Needs guard.lua before it.
--
-- KEYS
--   1  string  target id of this Redis
--   2  string  beat: newest Unix second that a source was told of
--   3  hash    batches: batch -> source name
--   4  string  the batch's ledger bitmap
--   5  set     queues: names
--   6  zset    delayed_queue_schedule: second -> second
--   7… lists and sets that the jobs name by number, 1 for KEYS[7]: queue:<name> first, then delayed:<second> and
--      timestamps:<text>
-- ARGV
--   1  target id that the source is bound to
--   2  newest beat that the source saw, Unix seconds; 0: none
--   3  seconds that this Redis may be behind it
--   4  batch (16 hex digits)   5  source name
--   6  number n of queues, 7 … 6+n their names
--   then for each job:  seq, number of its queue, payload, due (Unix second; 0: at once)
--   and, unless due is 0:  text for the delayed list, number of that list, number of its timestamps set
--   At most 1,000 jobs a call: unpack() of 8,000 values fails (seen).
--
-- Result
--   {"ok", pushed now, handed off before}
--   {"target", id found or ""}   {"behind", beat found or "0"}   {"type", key, its type}: nothing was written
--   {"failed", pushed now, error}: a push failed after others had been made; those have their bits
--   an error reply (out of memory, read-only): nothing was written

-- The last seq that a batch may have, and the arguments of a call that promises many more of its batch.
local LAST_SEQ, BIG_CALL = 65535, 400

local wrong = wrong_target(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
if wrong then return wrong end

local queue_count = tonumber(ARGV[6])

local fixed = {{3, 'hash'}, {4, 'string'}, {5, 'set'}, {6, 'zset'}}
for _, check in ipairs(fixed) do
  local good, found = is_type(KEYS[check[1]], check[2])
  if not good then return {'type', KEYS[check[1]], found} end
end
for number = 1, queue_count do
  local good, found = is_type(KEYS[6 + number], 'list')
  if not good then return {'type', KEYS[6 + number], found} end
end

local now = tonumber(redis.call('TIME')[1])
local ledger = KEYS[4]
local values, seqs = {}, {}
for number = 1, queue_count do
  values[number], seqs[number] = {}, {}
end
local delayed = {}
local before = 0

local at = 7 + queue_count
while at <= #ARGV do
  local seq, number, due = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 3])
  if redis.call('GETBIT', ledger, seq) == 1 then
    before = before + 1
  elseif due > now then
    local list, set = KEYS[6 + tonumber(ARGV[at + 5])], KEYS[6 + tonumber(ARGV[at + 6])]
    local good, found = is_type(list, 'list')
    if not good then return {'type', list, found} end
    good, found = is_type(set, 'set')
    if not good then return {'type', set, found} end
    delayed[#delayed + 1] = {seq, ARGV[at + 3], ARGV[at + 4], list, set}
  else
    -- Due meanwhile, or always was: straight to its queue.
    local place = #values[number] + 1
    values[number][place], seqs[number][place] = ARGV[at + 2], seq
  end
  at = at + (due > 0 and 7 or 4)
end

local pushed = 0
local function failed(reply)
  if pushed == 0 then return reply end
  return {'failed', pushed, reply.err}
end

-- The first write: a server that is full or read-only refuses here, before anything has changed.
local reply = redis.pcall('HSETNX', KEYS[3], ARGV[4], ARGV[5])
if type(reply) == 'table' and reply.err then return reply end
if reply == 1 and #ARGV > BIG_CALL then
  -- A bitmap that grows bit by bit gets twice the room it needs (seen); this one will be filled, so it gets all at once.
  redis.call('SETBIT', ledger, LAST_SEQ, 0)
end

for number = 1, queue_count do
  local count = #values[number]
  if count > 0 then
    redis.call('SADD', KEYS[5], ARGV[6 + number])
    reply = redis.pcall('RPUSH', KEYS[6 + number], unpack(values[number]))
    if type(reply) == 'table' and reply.err then return failed(reply) end
    for place = 1, count do
      redis.call('SETBIT', ledger, seqs[number][place], 1)
    end
    pushed = pushed + count
  end
end
for _, job in ipairs(delayed) do
  reply = redis.pcall('RPUSH', job[4], job[3])
  if type(reply) == 'table' and reply.err then return failed(reply) end
  redis.call('SETBIT', ledger, job[1], 1)
  redis.call('SADD', job[5], 'delayed:' .. job[2])
  redis.call('ZADD', KEYS[6], job[2], job[2])
  pushed = pushed + 1
end
return {'ok', pushed, before}
