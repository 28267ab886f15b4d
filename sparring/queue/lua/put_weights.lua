#!lua flags=allow-oom
-- Adds a snapshot to the stream of the last ARGV[3], under the id fence-version; one that is there already stays.
-- Returns as issue.lua does.
-- KEYS: fence weights. ARGV: fence version keep controls tag arrays.
local fence = redis.call('GET', KEYS[1])
if not fence then return -1 end
if fence ~= ARGV[1] then return 0 end
local id = ARGV[1] .. '-' .. ARGV[2]
if #redis.call('XRANGE', KEYS[2], id, id) == 0 then
  redis.call('XADD', KEYS[2], 'MAXLEN', '=', ARGV[3], id, 'controls', ARGV[4], 'tag', ARGV[5], 'arrays', ARGV[6])
end
return 1
