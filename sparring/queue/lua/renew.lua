#!lua flags=allow-oom
-- Moves the deadline of a lease that is live, of the current fence and this worker's; returns 1, or else 0.
-- A lease past its deadline is never revived: its ticket may be issued again already.
-- KEYS: fence leases owners. ARGV: fence member worker lease_ms.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local deadline = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[2]) or '0')
if redis.call('GET', KEYS[1]) ~= ARGV[1] or deadline <= now
  or redis.call('HGET', KEYS[3], ARGV[2]) ~= ARGV[3] then return 0 end
redis.call('ZADD', KEYS[2], string.format('%.0f', now + tonumber(ARGV[4])), ARGV[2])
return 1
