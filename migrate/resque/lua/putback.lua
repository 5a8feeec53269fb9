-- Puts returning jobs back where they were taken from: their outbox rows were purged meanwhile, so that the note holds
-- all there is of them. Atomic: a note goes, its job is there again, and counts as never taken. Needs guard.lua before it.
--
-- KEYS  1 string target id   2 string beat   3 hash returning   4 set queues   5 zset delayed_queue_schedule
-- ARGV  1 target id that the source is bound to   2 newest beat that it saw   3 seconds that this Redis may be behind it
--       4 prefix of all keys: "<namespace>:"   5… identities
-- Other keys, by prefix: queue:<name>, delayed:<second>, timestamps:<text>, qudo_migrate:taken:<batch>
--
-- Result  {"ok", jobs put back}; notes without a text stay; else nothing was written: {"target", …}, {"behind", …},
--         {"type", …} as handoff.lua, or an error reply

local wrong = wrong_target(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
if wrong then return wrong end
local jobs = {}
for at = 5, #ARGV do
  local note = redis.call('HGET', KEYS[3], ARGV[at])
  local length, behind = string.match(note or '', '^(%d+):()')
  if length then
    local place = string.sub(note, behind, behind + length - 1)
    local good, found = is_type(ARGV[4] .. place, 'list')
    if not good then return {'type', ARGV[4] .. place, found} end
    local batch, seq = string.match(ARGV[at], '^(%x+)%-(%d+)$')
    local taken = ARGV[4] .. 'qudo_migrate:taken:' .. batch
    good, found = is_type(taken, 'string')
    if not good then return {'type', taken, found} end
    jobs[#jobs + 1] = {ARGV[at], place, string.sub(note, behind + length), taken, seq}
  end
end

local put = 0
for _, job in ipairs(jobs) do
  local reply = redis.pcall('RPUSH', ARGV[4] .. job[2], job[3])
  if type(reply) == 'table' and reply.err then
    if put == 0 then return reply end
    break
  end
  redis.call('HDEL', KEYS[3], job[1])
  redis.call('SETBIT', job[4], job[5], 0)
  put = put + 1
  local second = string.match(job[2], '^delayed:(%d+)$')
  if second then
    redis.call('ZADD', KEYS[5], second, second)
    redis.pcall('SADD', ARGV[4] .. 'timestamps:' .. job[3], job[2])
  else
    redis.call('SADD', KEYS[4], string.sub(job[2], 7))
  end
end
return {'ok', put}
