#!lua flags=allow-oom
-- A control write that a full memory does not refuse: SET KEYS[1] ARGV[1], or HSET KEYS[1] ARGV[1] ARGV[2].
return redis.call(#ARGV == 1 and 'SET' or 'HSET', KEYS[1], unpack(ARGV))
