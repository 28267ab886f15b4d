#!lua flags=allow-oom
-- Adds a message to a stream between trainers and keeps the stream for ARGV[2] ms. What is told again is there twice: a
-- reader ignores what it knows. Returns 1, 0 where a later fence is current, -1 where there is none, or an older one.
-- The stream's name is noted, for the end of the run.
-- KEYS: fence stream meta. ARGV: fence keep_ms most name message stream.
local fence = redis.call('GET', KEYS[1])
if not fence then return -1 end
if fence ~= ARGV[1] then return (tonumber(fence) or 0) < tonumber(ARGV[1]) and -1 or 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', ARGV[4], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('HSET', KEYS[3], 'stream:' .. ARGV[6], 1)
return 1
