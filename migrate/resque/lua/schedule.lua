-- Moves jobs that have fallen due from the delayed layout to their queues, texts unchanged. Atomic: no job is nowhere,
-- even for an instant, and none is moved twice, whoever else moves them (resque-scheduler, node-resque).
--
-- KEYS
--   1 zset delayed_queue_schedule   2 set queues
--   3 list unscheduled: texts that name no queue, or whose queue isn't a list; kept for a person
-- ARGV
--   1 prefix of all keys: "<namespace>:"   2 how many jobs to move at most
-- Other keys, by prefix: delayed:<second>, timestamps:<text>, queue:<name>
--
-- Result  {moved, put aside, next second that has jobs or "", now in microseconds}
--         or an error reply (out of memory, read-only) when nothing was moved

local prefix, most = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1])
local moved, aside = 0, 0

local function queue_of(text)
  local good, job = pcall(cjson.decode, text)
  if good and type(job) == 'table' and type(job.queue) == 'string' and job.queue ~= '' then
    return job.queue
  end
end

-- Pushes one text; returns whether it is at its queue, or an error reply.
local function push(text)
  local queue = queue_of(text)
  if queue then
    local reply = redis.pcall('RPUSH', prefix .. 'queue:' .. queue, text)
    if type(reply) == 'number' then
      redis.call('SADD', KEYS[2], queue)
      return true
    end
    if not string.find(reply.err, 'WRONGTYPE', 1, true) then return reply end
  end
  local reply = redis.pcall('RPUSH', KEYS[3], text)
  if type(reply) ~= 'number' then return reply end
  return false
end

while moved + aside < most do
  local second = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)[1]
  if not second then break end
  local list = prefix .. 'delayed:' .. second
  local texts = redis.call('LRANGE', list, 0, most - moved - aside - 1)
  for _, text in ipairs(texts) do
    local done = push(text)
    if type(done) == 'table' then
      if moved + aside == 0 then return done end
      return {moved, aside, second, time[1] .. string.format('%06d', time[2])}
    end
    redis.call('LPOP', list)
    redis.call('SREM', prefix .. 'timestamps:' .. text, 'delayed:' .. second)
    if done then moved = moved + 1 else aside = aside + 1 end
  end
  if redis.call('LLEN', list) == 0 then
    redis.call('ZREM', KEYS[1], second)
  end
end

local next_second = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
return {moved, aside, next_second or '', time[1] .. string.format('%06d', time[2])}
