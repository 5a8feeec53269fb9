-- One turn of a worker: settles the job it has, then takes the next, so that a job costs one round trip. Atomic.
-- Safe to repeat with the same claim: a reply that was lost is given again.
-- Needs guard.lua and settle.lua before it.
--
-- KEYS
--   1 string worker:<id>, the note   2 string stat:processed   3 string stat:failed
--   4 string stat:processed:<id>   5 string stat:failed:<id>   6 list failed   7 set queues
--   8 zset delayed_queue_schedule   9 hash retrying: content -> lines of keys left behind
--   10… lists: the queues to take from, in this order
-- ARGV
--   1 prefix of all keys: "<namespace>:"
--   2 how the note of the job to settle begins; "": there is none   3 … 12 as `settle` has them
--   13 how the note of the next job begins; "": take none
--   14… names of the queues as JSON strings
--
-- Result
--   {"job", number of the queue, text, jobs whose keys were left behind}   {"none"}: all queues are empty, or none asked
--   {"mine", note}: this worker has a job already, by a call whose reply was lost
--   {"lost"}, {"type", …}: as settle.lua; then nothing was written

-- How many jobs that came too early one call puts off: no call may keep Redis from others for long.
local MOST_EARLY = 500

local prefix, next_head = ARGV[1], ARGV[13]

if ARGV[2] ~= '' then
  local note = redis.call('GET', KEYS[1])
  if note and next_head ~= '' and string.sub(note, 1, #next_head) == next_head then
    return {'mine', note}
  end
  local refused = settle(KEYS, ARGV)
  if refused then return refused end
end
if next_head == '' then return {'none'} end

local note = redis.call('GET', KEYS[1])
if note then return {'mine', note} end

local now, early = nil, 0
-- The Unix second before which a text wants to wait (`start_time`), or nil.
local function start_of(text)
  if not string.find(text, '"start_time"', 1, true) then return nil end
  local good, job = pcall(cjson.decode, text)
  local start = good and type(job) == 'table' and tonumber(job.start_time)
  now = now or tonumber(redis.call('TIME')[1])
  return start and start > now and start < 2 ^ 53 and math.ceil(start) or nil
end

-- A job that came too early goes where due jobs are looked for, its text and the name of its queue in front.
-- Returns false when something else uses that key.
local function put_off(text, start, name)
  local second = string.format('%d', start)
  local delayed = '{"queue":' .. name .. ',' .. string.gsub(text, '^%s*{', '', 1)
  if not is_type(prefix .. 'delayed:' .. second, 'list') or not is_type(KEYS[8], 'zset') then return false end
  redis.call('RPUSH', prefix .. 'delayed:' .. second, delayed)
  redis.call('ZADD', KEYS[8], second, second)
  redis.pcall('SADD', prefix .. 'timestamps:' .. delayed, 'delayed:' .. second)
  return true
end

for number = 10, #KEYS do
  local name = ARGV[number + 4]
  local text = redis.pcall('LPOP', KEYS[number])
  while type(text) == 'string' do
    local start = start_of(text)
    if not start or not put_off(text, start, name) then
      redis.call('SET', KEYS[1], next_head .. name .. ',"payload":' .. text .. '}')
      return {'job', number - 9, text, redis.call('HLEN', KEYS[9])}
    end
    early = early + 1
    if early >= MOST_EARLY then return {'none'} end  -- the caller sees that the queue isn't empty, and comes again
    text = redis.pcall('LPOP', KEYS[number])
  end
end
return {'none'}
