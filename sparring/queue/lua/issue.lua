#!lua flags=allow-oom
-- Adds tickets of the current fence and wakes as many idle workers; a repeated request (ARGV[2]) adds nothing.
-- The first ARGV[3] entries are issued again: they go to the front, since a step may wait for them.
-- Returns 1, 0 where a later fence is current, -1 where there is none, or an older one (the server has
-- lost the queue).
-- KEYS: fence tickets wake meta. ARGV: fence request again entry...
local fence = redis.call('GET', KEYS[1])
if not fence then return -1 end
if fence ~= ARGV[1] then return (tonumber(fence) or 0) < tonumber(ARGV[1]) and -1 or 0 end
if redis.call('HGET', KEYS[4], 'issued') == ARGV[2] then return 1 end
redis.call('HSET', KEYS[4], 'issued', ARGV[2])
local again = tonumber(ARGV[3])
for index = 3 + again, 4, -1 do redis.call('LPUSH', KEYS[2], ARGV[index]) end
for index = 4 + again, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[index]) end
for _ = redis.call('LLEN', KEYS[3]) + 1, math.min(64, redis.call('LLEN', KEYS[2])) do
  redis.call('RPUSH', KEYS[3], '1')
end
return 1
