-- Stands before the scripts that push: is this the Redis that the source is bound to, and not an older copy of it?

-- Returns what the script must return at once, or nil. Keys: target id, beat. Arguments: the target id that the source
-- is bound to, the newest beat that it saw (Unix seconds, 0: none), and the seconds that this Redis may be behind it.
local function wrong_target(id_key, beat_key, id, known, behind)
  local found = redis.call('GET', id_key)
  if found ~= id then
    return {'target', found or ''}
  end
  local beat = tonumber(redis.call('GET', beat_key) or '0')
  if tonumber(known) > 0 and beat < tonumber(known) - tonumber(behind) then
    return {'behind', tostring(beat)}
  end
end

-- Whether a key has the type wanted or is not there, and the type found. Lua is not rolled back: a WRONGTYPE in the
-- middle would leave "handed off" without a job (seen), so types are looked at first.
local function is_type(key, wanted)
  local found = redis.call('TYPE', key).ok
  return found == wanted or found == 'none', found
end
