#!lua flags=allow-oom
-- Ends the leases whose deadline has passed and reports them with all that was given back. A report is repeated until
-- it is acknowledged by the next call (ARGV[2]...), so none is lost with a reply.
-- Returns {member, reason, ...}, 0 where another fence is current, -1 where there is none.
-- KEYS: fence leases owners returned. ARGV: fence acknowledged...
local fence = redis.call('GET', KEYS[1])
if not fence then return -1 end
if fence ~= ARGV[1] then return 0 end
for index = 2, #ARGV do redis.call('HDEL', KEYS[4], ARGV[index]) end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do
  redis.call('ZREM', KEYS[2], member)
  redis.call('HDEL', KEYS[3], member)
  redis.call('HSET', KEYS[4], member, 'lease_expired\n')
end
return redis.call('HGETALL', KEYS[4])
