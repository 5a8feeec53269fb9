-- Stands before the scripts that end a job: what a worker's note says is settled, all of it or nothing.
-- Needs guard.lua before it.
--
-- A note is `worker:<id>`: {"run_at":…,"qudo_migrate":<claim>,"queue":…,"payload":<the queue's text>}. It is written
-- in the same script that pops the job, so a job is always in a queue, in a note, in the delayed layout or a failure.

-- keys: note, processed, failed count, the same two of the worker, failed, queues, schedule, retrying
-- args: 1 prefix of all keys   2 how the note must begin   3 "done" | "failed" | "queue" | "delay"   4 failure's text
--       5 queue   6 text for the queue or the delayed list   7 seconds of delay   8 field of `retrying`
--       9 keys left behind   10 hash of uniqkeys ("": none)   11 JSON list of the uniqkey's spellings
--       12 identity: whose the key must be
-- Returns nil when it is settled, or what the script must return: {"lost"} (somebody else has settled this job),
-- {"type", key, its type}.
local function settle(keys, args)
  local prefix, head, action, failure, queue, text = args[1], args[2], args[3], args[4], args[5], args[6]
  local delay, field, left_behind = args[7], args[8], args[9]
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
  if args[10] ~= '' then
    -- A holder is its identity, a space, its content. A key that another job holds by now stays.
    local good, spellings = pcall(cjson.decode, args[11])
    for _, key in ipairs(good and spellings or {}) do
      local holder = redis.pcall('HGET', args[10], key)
      if type(holder) == 'string' and string.sub(holder, 1, #args[12] + 1) == args[12] .. ' ' then
        redis.call('HDEL', args[10], key)
      end
    end
  end
end
