-- Moves jobs that have fallen due from the delayed layout to their queues, texts unchanged. Atomic: no job is nowhere,
-- even for an instant, and none is moved twice, whoever else moves them (resque-scheduler, node-resque).
-- Needs guard.lua before it.
--
-- KEYS
--   1 zset delayed_queue_schedule   2 set queues
--   3 list unscheduled: texts that name no queue, or whose queue isn't a list; kept for a person
-- ARGV
--   1 prefix of all keys: "<namespace>:"   2 how many jobs to move at most
-- Other keys, by prefix: delayed:<second>, timestamps:<text>, queue:<name>
--
-- Result  {"ok", moved, put aside, score of the next entry of the schedule or "", now in microseconds}
--         {"type", key, its type}: something else uses this key; nothing was moved
--         or an error reply (out of memory, read-only) when nothing was moved

local prefix, most = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local moved, aside = 0, 0

for number, wanted in ipairs({'zset', 'set', 'list'}) do
  local good, found = is_type(KEYS[number], wanted)
  if not good then return {'type', KEYS[number], found} end
end

local function done(next_score)
  return {'ok', moved, aside, next_score, time[1] .. string.format('%06d', time[2])}
end

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
  local entry = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', time[1], 'WITHSCORES', 'LIMIT', 0, 1)
  local second, score = entry[1], entry[2]
  if not second then break end
  local list = prefix .. 'delayed:' .. second
  local good, found = is_type(list, 'list')
  if not good then
    if moved + aside == 0 then return {'type', list, found} end
    return done(score)
  end
  local texts = redis.call('LRANGE', list, 0, most - moved - aside - 1)
  for _, text in ipairs(texts) do
    local pushed = push(text)
    if type(pushed) == 'table' then
      if moved + aside == 0 then return pushed end
      return done(score)
    end
    redis.call('LPOP', list)
    redis.pcall('SREM', prefix .. 'timestamps:' .. text, 'delayed:' .. second)
    if pushed then moved = moved + 1 else aside = aside + 1 end
  end
  if redis.call('LLEN', list) == 0 then
    redis.call('ZREM', KEYS[1], second)
  end
end

return done(redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or '')
