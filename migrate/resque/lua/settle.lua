-- Stands before the scripts that end a job: what a worker's note says is settled, all of it or nothing.
-- Needs guard.lua before it.
--
-- A note is `worker:<id>`: {"run_at":…,"qudo_migrate":<claim>,"queue":…,"payload":<the queue's text>}. It is written
-- in the same script that pops the job, so a job is always in a queue, in a note, in the delayed layout or a failure.

-- keys: note, processed, failed count, the same two of the worker, failed, queues, schedule, retrying
-- args: prefix of all keys, how the note must begin, "done" | "failed" | "queue" | "delay", failure's text,
--       queue, text for the queue or the delayed list, seconds of delay, field of `retrying`, keys left behind
-- Returns nil when it is settled, or what the script must return: {"lost"} (somebody else has settled this job),
-- {"type", key, its type}.
local function settle(keys, prefix, head, action, failure, queue, text, delay, field, left_behind)
  local note = redis.call('GET', keys[1]) or ''
  if string.sub(note, 1, #head) ~= head then
    return {'lost'}
  end
  local wanted = {[2] = 'string', [3] = 'string', [4] = 'string', [5] = 'string', [6] = 'list', [7] = 'set',
    [8] = 'zset', [9] = 'hash'}
  for number, kind in pairs(wanted) do
    local good, found = is_type(keys[number], kind)
    if not good then return {'type', keys[number], found} end
  end
  local list = prefix .. 'queue:' .. queue
  local second = '0'
  if action == 'delay' then
    local time = redis.call('TIME')
    second = string.format('%d', math.ceil(time[1] + time[2] / 1000000 + tonumber(delay)))
    list = prefix .. 'delayed:' .. second
  end
  if action == 'queue' or action == 'delay' then
    local good, found = is_type(list, 'list')
    if not good then return {'type', list, found} end
  end
  -- First what a full server allows; after that write it lets this script write the rest.
  redis.call('DEL', keys[1])
  redis.call('INCR', keys[2])
  redis.call('INCR', keys[4])
  if failure ~= '' then
    redis.call('RPUSH', keys[6], failure)
    redis.call('INCR', keys[3])
    redis.call('INCR', keys[5])
  end
  if action == 'queue' then
    redis.call('RPUSH', list, text)
    redis.call('SADD', keys[7], queue)
  elseif action == 'delay' then
    redis.call('RPUSH', list, text)
    redis.call('ZADD', keys[8], second, second)
    redis.pcall('SADD', prefix .. 'timestamps:' .. text, 'delayed:' .. second)
    if field ~= '' then
      -- One line for each copy of this job that waits.
      local lines = redis.call('HGET', keys[9], field)
      redis.call('HSET', keys[9], field, (lines and lines .. '\n' or '') .. left_behind)
    end
  end
end
