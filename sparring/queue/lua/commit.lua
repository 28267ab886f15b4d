#!lua flags=allow-oom
-- Makes a shard ready and its payload lasting, in one step, if its lease is live, this worker's and of the current
-- fence; else the payload is deleted (a late commit is fenced out). Committing again what is ready changes
-- nothing and returns 1; once the trainer has taken it out it is a late commit, and what was received counts. Without a
-- payload (its SET, sent along, was refused) nothing is done. A trainer that waits is woken.
-- KEYS: fence leases owners ready arrived payload. ARGV: fence member worker score.
if redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('ZSCORE', KEYS[4], ARGV[2]) then
  redis.call('PERSIST', KEYS[6])
  return 1
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local deadline = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[2]) or '0')
if redis.call('GET', KEYS[1]) ~= ARGV[1] or deadline <= now
  or redis.call('HGET', KEYS[3], ARGV[2]) ~= ARGV[3] then
  redis.call('UNLINK', KEYS[6])
  return 0
end
if redis.call('PERSIST', KEYS[6]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('HDEL', KEYS[3], ARGV[2])
redis.call('ZADD', KEYS[4], ARGV[4], ARGV[2])
if redis.call('LLEN', KEYS[5]) == 0 then redis.call('RPUSH', KEYS[5], '1') end
return 1
