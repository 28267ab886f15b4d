#!lua flags=allow-oom
-- Hands the first ticket of the current fence to one worker and records its lease in the same step, so that no ticket
-- is ever in nobody's hands. Tickets of an older fence are thrown away. A worker that is to stop or to leave gets none.
-- KEYS: fence tickets wake leases owners control. ARGV: worker lease_ms check_stop.
if ARGV[3] == '1' then
  local stop = redis.call('HMGET', KEYS[6], 'stop', 'stop:' .. ARGV[1])
  if stop[1] then return 'stop' end
  if stop[2] then return 'drain' end
end
local fence = redis.call('GET', KEYS[1])
if not fence then return false end
while true do
  local entry = redis.call('LPOP', KEYS[2])
  if not entry then return false end
  local issued, member, blob_at = string.match(entry, '^(%d+) (%d+:%d+:%d+) ()')
  if issued == fence then
    local now = redis.call('TIME')
    local deadline = now[1] * 1000 + math.floor(now[2] / 1000) + tonumber(ARGV[2])
    redis.call('ZADD', KEYS[4], string.format('%.0f', deadline), member)
    redis.call('HSET', KEYS[5], member, ARGV[1])
    if redis.call('LLEN', KEYS[3]) > redis.call('LLEN', KEYS[2]) then redis.call('LPOP', KEYS[3]) end
    return {member, string.sub(entry, blob_at), fence}
  end
end
