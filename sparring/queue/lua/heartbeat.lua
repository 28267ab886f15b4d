#!lua flags=allow-oom
-- Notes what a worker says of itself, stamped with the server's own time. One that has left has nothing to say: what was
-- under way would bring it back.
-- ARGV: prefix worker fields.
local prefix, worker = ARGV[1], ARGV[2]
if redis.call('HEXISTS', prefix .. 'control', 'gone:' .. worker) == 1 then return 0 end
local time = redis.call('TIME')
return redis.call('HSET', prefix .. 'heartbeat', worker, time[1] .. ' ' .. ARGV[3])
