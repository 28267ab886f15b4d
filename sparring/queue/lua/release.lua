#!lua flags=allow-oom
-- Ends a lease without a product and tells the trainer why, if the lease is of the current fence and this worker's.
-- KEYS: fence leases owners returned payload. ARGV: fence member worker reason.
if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('HGET', KEYS[3], ARGV[2]) ~= ARGV[3] then return 0 end
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('HDEL', KEYS[3], ARGV[2])
redis.call('UNLINK', KEYS[5])
redis.call('HSET', KEYS[4], ARGV[2], ARGV[4])
return 1
