#!lua flags=allow-oom
-- Ends a lease without a product and tells the trainer why, if the lease is of the current fence and this worker's.
-- ARGV: prefix fence member worker reason.
local prefix, fence, member = ARGV[1], ARGV[2], ARGV[3]
local owners = prefix .. 'owners'
if redis.call('GET', prefix .. 'fence') ~= fence or redis.call('HGET', owners, member) ~= ARGV[4] then return 0 end
redis.call('ZREM', prefix .. 'leases', member)
redis.call('HDEL', owners, member)
redis.call('UNLINK', prefix .. 'payload:' .. fence .. ':' .. member)
redis.call('HSET', prefix .. 'returned', member, ARGV[5])
return 1
