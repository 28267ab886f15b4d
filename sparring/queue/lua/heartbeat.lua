#!lua flags=allow-oom
-- Notes what a worker says of itself, stamped with the server's own time. One that has left has nothing to say: what was
-- under way would bring it back.
-- KEYS: heartbeat control. ARGV: worker fields.
if redis.call('HEXISTS', KEYS[2], 'gone:' .. ARGV[1]) == 1 then return 0 end
local time = redis.call('TIME')
return redis.call('HSET', KEYS[1], ARGV[1], time[1] .. ' ' .. ARGV[2])
