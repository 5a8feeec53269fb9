-- Ends an attempt: the note goes, the failure is recorded and the next try is put in its place, in one step. Whoever
-- comes first settles the job: its own process, the worker that finds it dead, or a worker that prunes a dead one.
--
-- KEYS  1 string worker:<id>, the note   2 list failed   3 set queues   4 zset delayed_queue_schedule
-- ARGV  1 prefix of all keys: "<namespace>:"   2 the note as it was   3 failure, or ""
--       4 hash of uniqkeys, or ""   5 JSON list of the spellings of the job's uniqkey   6 its identity: whose it must be
--       7 … for each text to push: queue, text for the queue, text for the delayed layout,
--         seconds until it is due, by Redis's clock; 0: now; or "=<second>", the second itself
-- Other keys, by prefix: queue:<name>, delayed:<second>, timestamps:<text>
-- Result  1: settled; 0: somebody else has settled this job, nothing was written. Or an error, nothing was written.

if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end

local function check(key, wanted)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= wanted then
    return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. wanted)
  end
end

local time = redis.call('TIME')
local pushes = {}
for at = 7, #ARGV, 4 do
  local queue, text, delayed, due = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local push = {queue = queue, text = text, list = ARGV[1] .. 'queue:' .. queue, second = string.match(due, '^=(%d+)$')}
  if not push.second and tonumber(due) > 0 then
    push.second = string.format('%d', math.ceil(time[1] + time[2] / 1000000 + tonumber(due)))
  end
  if push.second then
    push.text, push.list = delayed, ARGV[1] .. 'delayed:' .. push.second
  end
  local wrong = check(push.list, 'list')
  if wrong then return wrong end
  pushes[#pushes + 1] = push
end
local wrong = check(KEYS[2], 'list') or check(KEYS[3], 'set') or check(KEYS[4], 'zset')
if wrong then return wrong end

redis.call('DEL', KEYS[1])
if ARGV[3] ~= '' then redis.call('RPUSH', KEYS[2], ARGV[3]) end
for _, push in ipairs(pushes) do
  redis.call('RPUSH', push.list, push.text)
  if push.second then
    redis.call('ZADD', KEYS[4], push.second, push.second)
    redis.pcall('SADD', ARGV[1] .. 'timestamps:' .. push.text, 'delayed:' .. push.second)
  else
    redis.call('SADD', KEYS[3], push.queue)
  end
end
if ARGV[4] ~= '' then
  -- A holder is its identity, a space, its content. A key that another job holds by now stays.
  local good, spellings = pcall(cjson.decode, ARGV[5])
  for _, key in ipairs(good and spellings or {}) do
    local holder = redis.pcall('HGET', ARGV[4], key)
    if type(holder) == 'string' and string.sub(holder, 1, #ARGV[6] + 1) == ARGV[6] .. ' ' then
      redis.call('HDEL', ARGV[4], key)
    end
  end
end
return 1
