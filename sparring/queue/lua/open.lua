#!lua flags=allow-oom
-- Puts a fence in force, and empties the queue of all that an older one left. A repeated request changes nothing.
-- One step: no worker sees the new fence with an old ticket. Payloads that were never committed expire by themselves.
-- Returns 1, 0 where a higher fence is in force.
-- KEYS: fence tickets wake leases owners returned control weights meta. ARGV: fence protocol prefix.
local old = tonumber(redis.call('GET', KEYS[1]) or '0') or 0
local fence = tonumber(ARGV[1])
if old > fence then return 0 end
if old == fence then return 1 end
local ready = ARGV[3] .. 'ready:' .. old
for _, members in ipairs({redis.call('ZRANGE', ready, 0, -1), redis.call('HKEYS', KEYS[5])}) do
  for _, member in ipairs(members) do
    redis.call('UNLINK', ARGV[3] .. 'payload:' .. old .. ':' .. member)
  end
end
redis.call('UNLINK', ready, ARGV[3] .. 'arrived:' .. old)
for index = 2, 8 do redis.call('UNLINK', KEYS[index]) end
redis.call('SET', KEYS[1], string.format('%.0f', fence))
redis.call('HSET', KEYS[9], 'protocol', ARGV[2])
return 1
