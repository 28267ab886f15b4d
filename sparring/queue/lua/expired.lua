#!lua flags=allow-oom
-- Ends the leases whose deadline has passed and reports them with all that was given back. A report is repeated until
-- it is acknowledged by the next call, so none is lost with a reply. A deadline that is further away than a lease lasts
-- was set before the clock was put back: it is set anew, unless it is one of the trainer's own leases, which have none.
-- Returns {member, reason, ...}, 0 where a later fence is current, -1 where there is none, or an older one.
-- KEYS: fence leases owners returned. ARGV: fence lease_ms no_deadline_ms acknowledged...
local fence = redis.call('GET', KEYS[1])
if not fence then return -1 end
if fence ~= ARGV[1] then return (tonumber(fence) or 0) < tonumber(ARGV[1]) and -1 or 0 end
for index = 4, #ARGV do redis.call('HDEL', KEYS[4], ARGV[index]) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local latest, never = now + tonumber(ARGV[2]), now + tonumber(ARGV[3]) / 2
local function score(value) return string.format('%.0f', value) end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. score(latest), score(never))) do
  redis.call('ZADD', KEYS[2], score(latest), member)
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', score(now))) do
  redis.call('ZREM', KEYS[2], member)
  redis.call('HDEL', KEYS[3], member)
  redis.call('HSET', KEYS[4], member, 'lease_expired\n')
end
return redis.call('HGETALL', KEYS[4])
