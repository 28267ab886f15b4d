#!lua flags=allow-oom
-- Hands the first ticket of the current fence to one worker and records its lease in the same step, so that no ticket
-- is ever in nobody's hands. Tickets of an older fence are thrown away. A worker that is to stop or to leave gets none.
-- again = 1: only a ticket that was issued again; these are at the front.
-- ARGV: prefix worker lease_ms check_stop again.
local prefix, worker = ARGV[1], ARGV[2]
local tickets, wake = prefix .. 'tickets', prefix .. 'wake'
if ARGV[4] == '1' then
  local stop = redis.call('HMGET', prefix .. 'control', 'stop', 'stop:' .. worker)
  if stop[1] then return 'stop' end
  if stop[2] then return 'drain' end
end
local fence = redis.call('GET', prefix .. 'fence')
if not fence then return false end
while true do
  local entry = redis.call('LPOP', tickets)
  if not entry then return false end
  local issued, member, blob_at = string.match(entry, '^(%d+) (%d+:%d+:%d+) ()')
  if issued == fence and ARGV[5] == '1' and string.match(member, ':0$') then
    redis.call('LPUSH', tickets, entry)
    return false
  end
  if issued == fence then
    local now = redis.call('TIME')
    local deadline = now[1] * 1000 + math.floor(now[2] / 1000) + tonumber(ARGV[3])
    redis.call('ZADD', prefix .. 'leases', string.format('%.0f', deadline), member)
    redis.call('HSET', prefix .. 'owners', member, worker)
    if redis.call('LLEN', wake) > redis.call('LLEN', tickets) then redis.call('LPOP', wake) end
    return {member, string.sub(entry, blob_at), fence}
  end
end
