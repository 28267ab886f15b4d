#!lua flags=allow-oom
-- Ends a lease whose product does not travel (the trainer's own). Returns 1; where the lease is lost, 0, and the
-- attempt is reported as lost, so that a lost reply cannot leave its ticket in nobody's hands.
-- ARGV: prefix fence member worker.
local prefix, member = ARGV[1], ARGV[3]
local leases, owners = prefix .. 'leases', prefix .. 'owners'
if redis.call('GET', prefix .. 'fence') ~= ARGV[2] then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local deadline = tonumber(redis.call('ZSCORE', leases, member) or '0')
local live = deadline > now and redis.call('HGET', owners, member) == ARGV[4]
redis.call('ZREM', leases, member)
redis.call('HDEL', owners, member)
if live then return 1 end
redis.call('HSET', prefix .. 'returned', member, 'lease_expired\n')
return 0
