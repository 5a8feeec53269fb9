-- Hands off the jobs of one batch, each once: pushes those whose ledger bit is clear, then sets the bit.
-- Atomic: no other client sees a push without its bit. Nothing is written unless every check passes.
-- Needs guard.lua before it.
--
-- KEYS
--   1  string  target id of this Redis
--   2  string  beat: newest Unix second that a source was told of
--   3  string  version of what is paused
--   4  hash    batches: batch -> source name
--   5  string  the batch's ledger bitmap
--   6  set     queues: names
--   7  zset    delayed_queue_schedule: second -> second
--   8  string  the ledger bitmap of the batch that this caller pushed to last
--   9… lists and sets that the jobs name by number, 1 for KEYS[9]: queue:<name> first, then delayed:<second> and
--      timestamps:<text>
-- ARGV
--   1  target id that the source is bound to
--   2  newest beat that the source saw, Unix seconds; 0: none
--   3  seconds that this Redis may be behind it
--   4  version of what the caller knows to be paused; "": it hands off whatever is paused
--   5  seq that this caller pushed last: its bit in KEYS[8] must still be set; "": it doesn't ask
--   6  batch (16 hex digits)   7  source name
--   8  number n of queues, 9 … 8+n their names
--   then for each run of jobs that go to one queue at once, their seqs without a gap:
--     how many, number of the queue, seq of the first, their payloads
--   and for each job that waits until it is due:
--     0, number of its queue, seq, payload, due (Unix second), text for the delayed list, number of that list, number of
--     its timestamps set
--   At most 1,000 jobs a call: unpack() of 8,000 values fails (seen).
--
-- Result
--   {"ok", pushed now, handed off before}
--   {"target", id found or ""}   {"behind", beat found or "0"}   {"paused", version found}   {"type", key, its type}
--   {"forgot"}, Redis has restarted without its newest data: nothing was written
--   {"failed", pushed now, error}: a push failed after others had been made; those have their bits
--   an error reply (out of memory, read-only): nothing was written

-- The last seq that a batch may have, and the jobs of a call that promises many more of its batch.
local LAST_SEQ, BIG_CALL = 65535, 100
-- How many keys and arguments stand before those that the jobs name.
local KEYS_BEFORE, ARGUMENTS_BEFORE = 8, 8

local wrong = wrong_target(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
if wrong then return wrong end

local version = redis.call('GET', KEYS[3]) or '0'
if ARGV[4] ~= '' and version ~= ARGV[4] then
  return {'paused', version}
end

local queue_count = tonumber(ARGV[ARGUMENTS_BEFORE])

local fixed = {{4, 'hash'}, {5, 'string'}, {6, 'set'}, {7, 'zset'}, {8, 'string'}}
for _, check in ipairs(fixed) do
  local good, found = is_type(KEYS[check[1]], check[2])
  if not good then return {'type', KEYS[check[1]], found} end
end
for number = 1, queue_count do
  local good, found = is_type(KEYS[KEYS_BEFORE + number], 'list')
  if not good then return {'type', KEYS[KEYS_BEFORE + number], found} end
end

-- A Redis that restarted between two calls may have forgotten the end of what it knew. What was pushed before these
-- jobs must stand before them again, so that the caller begins anew with what lacks.
if ARGV[5] ~= '' and redis.call('GETBIT', KEYS[8], ARGV[5]) == 0 then
  return {'forgot'}
end

local now = tonumber(redis.call('TIME')[1])
local ledger = KEYS[5]

-- The bits from `first` on as whole bytes, from one up to another without it, and the seqs at both ends that fill none.
local function cut(first, count)
  local behind = first + count
  local from, to = math.ceil(first / 8), math.floor(behind / 8)
  local ends = {}
  if from >= to then
    from, to = 0, 0
    for seq = first, behind - 1 do ends[#ends + 1] = seq end
  else
    for seq = first, from * 8 - 1 do ends[#ends + 1] = seq end
    for seq = to * 8, behind - 1 do ends[#ends + 1] = seq end
  end
  return from, to, ends
end

-- Whether none of these bits is set. Byte by byte, as one command a bit costs more than all the rest.
local function is_clear(first, count)
  local from, to, ends = cut(first, count)
  if from < to and redis.call('GETRANGE', ledger, from, to - 1):find('[^%z]') then return false end
  for _, seq in ipairs(ends) do
    if redis.call('GETBIT', ledger, seq) == 1 then return false end
  end
  return true
end

local function set_bits(first, count)
  local from, to, ends = cut(first, count)
  if from < to then redis.call('SETRANGE', ledger, from, string.rep('\255', to - from)) end
  for _, seq in ipairs(ends) do redis.call('SETBIT', ledger, seq, 1) end
end

local values, runs = {}, {}
for number = 1, queue_count do
  values[number], runs[number] = {}, {}
end
local delayed = {}
local jobs, before = 0, 0

-- What is due goes straight to its queue.
local function add(number, payload_at, seq, count)
  local list = values[number]
  for place = 0, count - 1 do
    list[#list + 1] = ARGV[payload_at + place]
  end
  runs[number][#runs[number] + 1] = {seq, count}
end

local at = ARGUMENTS_BEFORE + 1 + queue_count
while at <= #ARGV do
  local count, number, seq = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  if count > 0 then
    if is_clear(seq, count) then
      add(number, at + 3, seq, count)
    else
      for place = 0, count - 1 do
        if redis.call('GETBIT', ledger, seq + place) == 1 then
          before = before + 1
        else
          add(number, at + 3 + place, seq + place, 1)
        end
      end
    end
    jobs, at = jobs + count, at + 3 + count
  else
    if redis.call('GETBIT', ledger, seq) == 1 then
      before = before + 1
    elseif tonumber(ARGV[at + 4]) > now then
      local list = KEYS[KEYS_BEFORE + tonumber(ARGV[at + 6])]
      local set = KEYS[KEYS_BEFORE + tonumber(ARGV[at + 7])]
      local good, found = is_type(list, 'list')
      if not good then return {'type', list, found} end
      good, found = is_type(set, 'set')
      if not good then return {'type', set, found} end
      delayed[#delayed + 1] = {seq, ARGV[at + 4], ARGV[at + 5], list, set}
    else
      add(number, at + 3, seq, 1)
    end
    jobs, at = jobs + 1, at + 8
  end
end

local pushed = 0
local function failed(reply)
  if pushed == 0 then return reply end
  return {'failed', pushed, reply.err}
end

-- The first write: a server that is full or read-only refuses here, before anything has changed.
local reply = redis.pcall('HSETNX', KEYS[4], ARGV[6], ARGV[7])
if type(reply) == 'table' and reply.err then return reply end
if reply == 1 and jobs > BIG_CALL then
  -- A bitmap that grows bit by bit gets twice the room it needs (seen); this one will be filled, so it gets all at once.
  redis.call('SETBIT', ledger, LAST_SEQ, 0)
end

for number = 1, queue_count do
  local count = #values[number]
  if count > 0 then
    redis.call('SADD', KEYS[6], ARGV[ARGUMENTS_BEFORE + number])
    reply = redis.pcall('RPUSH', KEYS[KEYS_BEFORE + number], unpack(values[number]))
    if type(reply) == 'table' and reply.err then return failed(reply) end
    for _, run in ipairs(runs[number]) do
      set_bits(run[1], run[2])
    end
    pushed = pushed + count
  end
end
for _, job in ipairs(delayed) do
  reply = redis.pcall('RPUSH', job[4], job[3])
  if type(reply) == 'table' and reply.err then return failed(reply) end
  redis.call('SETBIT', ledger, job[1], 1)
  redis.call('SADD', job[5], 'delayed:' .. job[2])
  redis.call('ZADD', KEYS[7], job[2], job[2])
  pushed = pushed + 1
end
return {'ok', pushed, before}
