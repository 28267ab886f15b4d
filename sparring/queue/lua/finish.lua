#!lua flags=allow-oom
-- Ends a lease whose product does not travel (the trainer's own). Returns 1; where the lease is lost, 0, and the
-- attempt is reported as lost, so that a lost reply cannot leave its ticket in nobody's hands.
-- KEYS: fence leases owners returned. ARGV: fence member worker.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local deadline = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[2]) or '0')
local live = deadline > now and redis.call('HGET', KEYS[3], ARGV[2]) == ARGV[3]
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('HDEL', KEYS[3], ARGV[2])
if live then return 1 end
redis.call('HSET', KEYS[4], ARGV[2], 'lease_expired\n')
return 0
