-- Ends the return of jobs that are in Qudo again: drops their notes and counts them, each once. Atomic.
-- Needs guard.lua before it.
--
-- KEYS  1 string target id   2 string beat   3 hash returning   4 hash returned: source name -> jobs
-- ARGV  1 target id that the source is bound to   2 newest beat that it saw   3 seconds that this Redis may be behind it
--       4 source name   5… identities
--
-- Result  {"ok", jobs whose note was there}; else nothing was written: {"target", …}, {"behind", …}, {"type", …} as
--         handoff.lua, or an error reply

local wrong = wrong_target(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
if wrong then return wrong end
for number = 3, 4 do
  local good, found = is_type(KEYS[number], 'hash')
  if not good then return {'type', KEYS[number], found} end
end

-- The first write is one that a full server refuses: a note must not go without being counted.
local reply = redis.pcall('HINCRBY', KEYS[4], ARGV[4], 0)
if type(reply) == 'table' and reply.err then return reply end
local ended = 0
for at = 5, #ARGV do
  ended = ended + redis.call('HDEL', KEYS[3], ARGV[at])
end
redis.call('HINCRBY', KEYS[4], ARGV[4], ended)
return {'ok', ended}
