#!lua flags=allow-oom
-- Keeps a worker's verdict on a piece of a rolling evaluation, if it is of the current fence. A field is written once
-- and again with the same verdict, so that there are never more of them than pieces.
-- ARGV: prefix fence field verdict.
if redis.call('GET', ARGV[1] .. 'fence') ~= ARGV[2] then return 0 end
redis.call('HSET', ARGV[1] .. 'verdicts', ARGV[3], ARGV[4])
return 1
