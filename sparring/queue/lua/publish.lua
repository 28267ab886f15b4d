#!lua flags=allow-oom
-- Names the newest published version, only for the current fence. Returns as issue.lua does.
-- KEYS: fence version. ARGV: fence version.
local fence = redis.call('GET', KEYS[1])
if not fence then return -1 end
if fence ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
return 1
