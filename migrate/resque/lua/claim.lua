-- Claims jobs of one batch that were never handed off for their return to Qudo: sets their bits, so that a migrator that
-- slept since before this call finds them set and pushes nothing. Atomic. Needs guard.lua before it.
--
-- KEYS  1 string target id   2 string beat   3 hash batches: batch -> source name
--       4 hash returning: identity -> "" (there is no text: it never was in Resque)
--       5 string the batch's ledger bitmap   6 string bitmap: which of its jobs were ever taken
-- ARGV  1 target id that the source is bound to   2 newest beat that it saw   3 seconds that this Redis may be behind it
--       4 batch (16 hex digits)   5 source name   6… seqs
--
-- Result  {"ok", {seqs claimed}}: the others were handed off or claimed before; else nothing was written: {"target", …},
--         {"behind", …}, {"type", …} as handoff.lua, or an error reply

local wrong = wrong_target(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
if wrong then return wrong end
for number, kind in pairs({[3] = 'hash', [4] = 'hash', [5] = 'string', [6] = 'string'}) do
  local good, found = is_type(KEYS[number], kind)
  if not good then return {'type', KEYS[number], found} end
end

local reply = redis.pcall('HSETNX', KEYS[3], ARGV[4], ARGV[5])
if type(reply) == 'table' and reply.err then return reply end
local claimed = {}
for at = 6, #ARGV do
  if redis.call('SETBIT', KEYS[5], ARGV[at], 1) == 0 then
    redis.call('SETBIT', KEYS[6], ARGV[at], 1)
    redis.call('HSET', KEYS[4], ARGV[4] .. '-' .. ARGV[at], '')
    claimed[#claimed + 1] = ARGV[at]
  end
end
return {'ok', claimed}
