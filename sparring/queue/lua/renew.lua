#!lua flags=allow-oom
-- Moves the deadline of a lease that is live, of the current fence and this worker's; returns 1, or else 0.
-- A lease past its deadline is never revived: its ticket may be issued again already.
-- ARGV: prefix fence member worker lease_ms.
local prefix, member = ARGV[1], ARGV[3]
local leases = prefix .. 'leases'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local deadline = tonumber(redis.call('ZSCORE', leases, member) or '0')
if redis.call('GET', prefix .. 'fence') ~= ARGV[2] or deadline <= now
  or redis.call('HGET', prefix .. 'owners', member) ~= ARGV[4] then return 0 end
redis.call('ZADD', leases, string.format('%.0f', now + tonumber(ARGV[5])), member)
return 1
