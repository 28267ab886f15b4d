#!lua flags=allow-oom
-- Offers pieces of a rolling evaluation in the place of those that nobody has taken; ARGV[2] = 1: forgets all verdicts.
-- Returns as issue.lua does.
-- KEYS: fence pieces verdicts. ARGV: fence anew piece...
local fence = redis.call('GET', KEYS[1])
if not fence then return -1 end
if fence ~= ARGV[1] then return (tonumber(fence) or 0) < tonumber(ARGV[1]) and -1 or 0 end
redis.call('UNLINK', KEYS[2])
if ARGV[2] == '1' then redis.call('UNLINK', KEYS[3]) end
for index = 3, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[index]) end
return 1
