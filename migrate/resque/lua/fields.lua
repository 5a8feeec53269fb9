-- Some fields of a hash without their values, which may be large: HSCAN has NOVALUES from Redis 7.4 on only. Reads only.
-- Who is there from the first call to the last is met, perhaps twice; as with HSCAN.
--
-- KEYS  1 hash
-- ARGV  1 cursor, 0 to begin   2 about how many
--
-- Result  {cursor for the next call, 0 at the end; {fields}}, or an error reply for a key of another type

local reply = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local fields = {}
for at = 1, #reply[2], 2 do fields[#fields + 1] = reply[2][at] end
return {reply[1], fields}
