#!lua flags=allow-oom
-- Ends all leases of a worker that is known to be dead, as if their deadline had passed. Returns how many.
-- KEYS: leases owners. ARGV: worker.
local owners, dropped = redis.call('HGETALL', KEYS[2]), 0
for index = 1, #owners, 2 do
  if owners[index + 1] == ARGV[1] then
    redis.call('ZADD', KEYS[1], 'XX', '0', owners[index])
    dropped = dropped + 1
  end
end
return dropped
