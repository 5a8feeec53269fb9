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
--   2 how the note of the job to settle begins; "": there is none   3 … 9 as `settle` has them from its third on
--   10 how the note of the next job begins; "": take none
--   11… names of the queues as JSON strings
--
-- Result
--   {"job", number of the queue, text, jobs whose keys were left behind}   {"none"}: all queues are empty, or none asked
--   {"mine", note}: this worker has a job already, by a call whose reply was lost
--   {"lost"}, {"type", …}: as settle.lua; then nothing was written

local prefix, next_head = ARGV[1], ARGV[10]

if ARGV[2] ~= '' then
  local note = redis.call('GET', KEYS[1])
  if note and next_head ~= '' and string.sub(note, 1, #next_head) == next_head then
    return {'mine', note}
  end
  local refused = settle(KEYS, prefix, ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9])
  if refused then return refused end
end
if next_head == '' then return {'none'} end

local note = redis.call('GET', KEYS[1])
if note then return {'mine', note} end

local now = nil
-- The Unix second before which a text wants to wait (`start_time`), or nil.
local function start_of(text)
  if not string.find(text, '"start_time"', 1, true) then return nil end
  local good, job = pcall(cjson.decode, text)
  local start = good and type(job) == 'table' and tonumber(job.start_time)
  now = now or tonumber(redis.call('TIME')[1])
  return start and start > now and start < 2 ^ 53 and math.ceil(start) or nil
end

-- A job that came too early goes where due jobs are looked for, its text and the name of its queue in front.
local function put_off(text, start, name)
  local second = string.format('%d', start)
  local delayed = '{"queue":' .. name .. ',' .. string.gsub(text, '^%s*{', '', 1)
  redis.call('RPUSH', prefix .. 'delayed:' .. second, delayed)
  redis.call('ZADD', KEYS[8], second, second)
  redis.pcall('SADD', prefix .. 'timestamps:' .. delayed, 'delayed:' .. second)
end

for number = 10, #KEYS do
  local text = redis.pcall('LPOP', KEYS[number])
  while type(text) == 'string' do
    local start = start_of(text)
    if not start then
      redis.call('SET', KEYS[1], next_head .. ARGV[number + 1] .. ',"payload":' .. text .. '}')
      return {'job', number - 9, text, redis.call('HLEN', KEYS[9])}
    end
    put_off(text, start, ARGV[number + 1])
    text = redis.pcall('LPOP', KEYS[number])
  end
end
return {'none'}
