-- Takes jobs that nobody has started out of one list and notes them as returning to Qudo. Atomic: a worker that pops at
-- the same moment gets a job or doesn't, and no job is nowhere, even for an instant. What isn't named stays where it is,
-- in its order. Needs guard.lua before it.
--
-- The list is looked at through a window near its tail, since workers pop at the head. What is taken is overwritten
-- first and then removed in one go from the tail on: LREM for each job would read the whole list each time.
--
-- KEYS
--   1  string  target id   2  string  beat
--   3  hash    returning: identity -> "<length>:<place><text>", place being the list's key behind the namespace
--   4  list    queue:<name> or delayed:<second>
--   5  zset    delayed_queue_schedule
--   6  hash    the same as 3, of jobs born in Resque
--   7… for each batch two bitmaps: its ledger, and which of its jobs were ever taken
-- ARGV
--   1 target id that the source is bound to   2 newest beat that it saw   3 seconds that this Redis may be behind it
--   4, 5  first and last place of the window, negative: counted from the tail
--   6  place   7  second of a delayed list, else ""   8  prefix of all keys: "<namespace>:"
--   then for each job:  number of its batch (1 for KEYS[7] and [8]; 0: none), seq, identity, text, and "1" when the text
--   carries the identity; "2" when it was born in Resque besides, so that no bit tells of it; else "0": any text that is
--   alike will do, once for each job that was never taken
-- Other keys, by prefix: timestamps:<text>
--
-- Result  {"ok", {identities taken}}; else nothing was written: {"target", …}, {"behind", …}, {"type", …} as handoff.lua,
--         or an error reply (out of memory, read-only)

local TAKEN = '\0taken by qudo-migrate'
-- Entries of a delayed list up to which it is looked through for further copies of a text.
local LOOKED_THROUGH = 100000

local wrong = wrong_target(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
if wrong then return wrong end
local kinds = {[3] = 'hash', [4] = 'list', [5] = 'zset', [6] = 'hash'}
for number = 3, #KEYS do
  local good, found = is_type(KEYS[number], kinds[number] or 'string')
  if not good then return {'type', KEYS[number], found} end
end

local wanted = {}
for at = 9, #ARGV, 5 do
  local batch, text, kind = 5 + 2 * tonumber(ARGV[at]), ARGV[at + 3], ARGV[at + 4]
  local jobs = wanted[text] or {next = 1}
  wanted[text] = jobs
  jobs[#jobs + 1] = {
    ledger = KEYS[batch], taken = KEYS[batch + 1], seq = ARGV[at + 1], identity = ARGV[at + 2], own = kind ~= '0',
    native = kind == '2'
  }
end

-- Whose entry this is. A job is taken by its likeness once in its life; by its identity as often as copies of it are met.
local function owner(jobs)
  while jobs[jobs.next] do
    local job = jobs[jobs.next]
    if job.own then return job end
    jobs.next = jobs.next + 1
    if redis.call('GETBIT', job.taken, job.seq) == 0 then return job end
  end
end

local last = tonumber(ARGV[5])
local window = redis.call('LRANGE', KEYS[4], ARGV[4], ARGV[5])
local note = string.format('%d:', #ARGV[6]) .. ARGV[6]
local identities, texts, removed = {}, {}, 0
for place, text in ipairs(window) do
  local job = wanted[text] and owner(wanted[text])
  if job then
    -- The first write: a server that is full or read-only refuses here, before anything has changed.
    local reply = redis.pcall('HSET', KEYS[job.native and 6 or 3], job.identity, note .. text)
    if type(reply) == 'table' and reply.err then
      if removed == 0 then return reply end
      break
    end
    if not job.native then
      redis.call('SETBIT', job.ledger, job.seq, 1)
      redis.call('SETBIT', job.taken, job.seq, 1)
    end
    redis.call('LSET', KEYS[4], last - (#window - place), TAKEN)
    removed = removed + 1
    identities[removed], texts[removed] = job.identity, {text, job.own}
  end
end
if removed == 0 then return {'ok', identities} end
redis.call('LREM', KEYS[4], -removed, TAKEN)

if ARGV[7] ~= '' then
  local member = 'delayed:' .. ARGV[7]
  local left = redis.call('LLEN', KEYS[4])
  local still = {}
  if left == 0 then
    redis.call('ZREM', KEYS[5], ARGV[7])
  elseif left <= LOOKED_THROUGH then
    for _, text in ipairs(redis.call('LRANGE', KEYS[4], 0, -1)) do still[text] = true end
  end
  for _, entry in ipairs(texts) do
    if not still[entry[1]] and (entry[2] or left <= LOOKED_THROUGH) then
      redis.pcall('SREM', ARGV[8] .. 'timestamps:' .. entry[1], member)
    end
  end
end
return {'ok', identities}
