#!lua flags=allow-oom
-- Adds a snapshot to the stream of the last ARGV[3], under the id fence-version; one that is there already stays. Where
-- it is not what was sent, or something stands behind its place, the stream is begun anew.
-- Returns as issue.lua does.
-- KEYS: fence weights. ARGV: fence version keep controls tag arrays.
local fence = redis.call('GET', KEYS[1])
if not fence then return -1 end
if fence ~= ARGV[1] then return (tonumber(fence) or 0) < tonumber(ARGV[1]) and -1 or 0 end
local id = ARGV[1] .. '-' .. ARGV[2]
local found = redis.call('XRANGE', KEYS[2], id, id)[1]
if found and found[2][2] == ARGV[4] and found[2][4] == ARGV[5] and found[2][6] == ARGV[6] then return 1 end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if last then
  local of, version = string.match(last[1], '^(%d+)-(%d+)$')
  of, version = tonumber(of), tonumber(version)
  local before = of < tonumber(ARGV[1]) or (of == tonumber(ARGV[1]) and version < tonumber(ARGV[2]))
  if not before then redis.call('UNLINK', KEYS[2]) end
end
redis.call('XADD', KEYS[2], 'MAXLEN', '=', ARGV[3], id, 'controls', ARGV[4], 'tag', ARGV[5], 'arrays', ARGV[6])
return 1
