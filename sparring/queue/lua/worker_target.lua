#!lua flags=allow-oom
-- Changes how many workers a run is to have, and which of them are to leave. A worker that is drained is not replaced: the number
-- falls with it, once, however often it is asked for.
-- KEYS: worker_target. ARGV: verb value least most. Verbs: start, set, add, drain; leave (already counted).
-- Returns the number, -1 where the run has no target (yet), -2 where it would lie outside least..most.
local verb, value = ARGV[1], ARGV[2]
if verb == 'start' then
  redis.call('UNLINK', KEYS[1])
  redis.call('HSET', KEYS[1], 'count', value)
  return tonumber(value)
end
local count = tonumber(redis.call('HGET', KEYS[1], 'count'))
if not count then return -1 end
if verb == 'leave' then
  redis.call('HSET', KEYS[1], 'leaving:' .. value, 1)
  return count
end
if verb == 'drain' then
  if redis.call('HEXISTS', KEYS[1], 'leaving:' .. value) == 1 then return count end
  count = count - 1
else
  count = tonumber(value) + (verb == 'add' and count or 0)
end
if count < tonumber(ARGV[3]) or count > tonumber(ARGV[4]) then return -2 end
redis.call('HSET', KEYS[1], 'count', string.format('%.0f', count))
if verb == 'drain' then redis.call('HSET', KEYS[1], 'leaving:' .. value, 1) end
return count
