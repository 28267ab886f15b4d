#!lua flags=allow-oom
-- Notes what a worker says of itself, stamped with the server's own time.
-- KEYS: heartbeat. ARGV: worker fields.
local time = redis.call('TIME')
return redis.call('HSET', KEYS[1], ARGV[1], time[1] .. ' ' .. ARGV[2])
