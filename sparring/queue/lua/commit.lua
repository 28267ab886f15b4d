#!lua flags=allow-oom
-- Makes a shard ready and its payload lasting, in one step, if its lease is live, this worker's and of the current
-- fence; else the payload is deleted (a late commit is fenced out). Committing again what is ready changes
-- nothing and returns 1; once the trainer has taken it out it is a late commit, and what was received counts. Without a
-- payload (its SET, sent along, was refused) nothing is done, unless payloads are on servers of their own (elsewhere = 1).
-- A trainer that waits is woken.
-- ARGV: prefix fence member worker score place elsewhere. Place: FENCE, or FENCE:PART where several trainers share the
-- steps.
-- The keys are named here, not in KEYS: Redis lets a user name there only what it may both read and write.
local prefix, fence, member = ARGV[1], ARGV[2], ARGV[3]
local leases, owners = prefix .. 'leases', prefix .. 'owners'
local ready, arrived = prefix .. 'ready:' .. ARGV[6], prefix .. 'arrived:' .. ARGV[6]
local payload = prefix .. 'payload:' .. fence .. ':' .. member
local current = redis.call('GET', prefix .. 'fence')
if current == fence and redis.call('ZSCORE', ready, member) then
  redis.call('PERSIST', payload)
  return 1
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local deadline = tonumber(redis.call('ZSCORE', leases, member) or '0')
if current ~= fence or deadline <= now or redis.call('HGET', owners, member) ~= ARGV[4] then
  redis.call('UNLINK', payload)
  return 0
end
if ARGV[7] ~= '1' and redis.call('PERSIST', payload) == 0 then return 0 end
redis.call('ZREM', leases, member)
redis.call('HDEL', owners, member)
redis.call('ZADD', ready, ARGV[5], member)
if redis.call('LLEN', arrived) == 0 then redis.call('RPUSH', arrived, '1') end
return 1
