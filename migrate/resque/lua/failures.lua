-- Enters failures imported from `exception_log`, each once: pushes those that the ledger doesn't know, then notes them.
-- Atomic. Needs guard.lua before it.
--
-- KEYS
--   1 string target id   2 string beat   3 list failed
--   4… hashes, the ledger's buckets: field -> fingerprint; behind it "c" where the job has crossed and nothing was pushed
-- ARGV
--   1 target id that the source is bound to   2 newest beat that it saw   3 seconds that this Redis may be behind
--   then for each row: number of its bucket (1 for KEYS[4]), field, fingerprint, text
--   An empty text only notes that the row's job has crossed.
--
-- Result  {"ok", pushed now, known before}; else as handoff.lua: {"target", …}, {"behind", …}, {"type", …},
--         {"failed", pushed now, error}, or an error reply and nothing written

local wrong = wrong_target(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
if wrong then return wrong end
for number = 3, #KEYS do
  local good, found = is_type(KEYS[number], number == 3 and 'list' or 'hash')
  if not good then return {'type', KEYS[number], found} end
end

local pushed, before = 0, 0
for at = 4, #ARGV, 4 do
  local bucket, field, fingerprint, text = KEYS[3 + tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local held = redis.call('HGET', bucket, field)
  if held == fingerprint or held == fingerprint .. 'c' then
    before = before + 1
  else
    if text ~= '' then
      local reply = redis.pcall('RPUSH', KEYS[3], text)
      if type(reply) == 'table' and reply.err then
        if pushed == 0 then return reply end
        return {'failed', pushed, reply.err}
      end
      pushed = pushed + 1
    end
    local reply = redis.pcall('HSET', bucket, field, text ~= '' and fingerprint or fingerprint .. 'c')
    if type(reply) == 'table' and reply.err then return reply end
  end
end
return {'ok', pushed, before}
