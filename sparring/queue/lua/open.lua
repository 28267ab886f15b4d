#!lua flags=allow-oom
-- Puts a fence in force, and empties the queue of all that an older one left. A repeated request changes nothing.
-- One step: no worker sees the new fence with an old ticket. Payloads that were never committed expire by themselves.
-- Returns 1, 0 where a higher fence is in force.
-- KEYS: fence tickets wake leases owners returned control weights pieces verdicts judged meta. ARGV: fence protocol prefix parts.
local found = redis.pcall('GET', KEYS[1])
local old = type(found) == 'string' and #found <= 15 and tonumber(found) or 0  -- anything else is no fence
local fence = tonumber(ARGV[1])
if old > fence then return 0 end
if old == fence then return 1 end
local function listed(...)
  local answer = redis.pcall(...)
  return answer.err and {} or answer
end
local told = redis.pcall('HGET', KEYS[12], 'parts')
if type(told) == 'table' then redis.call('UNLINK', KEYS[12]) end  -- no hash
local parts, places = type(told) == 'string' and tonumber(told) or 1, {tostring(old)}
if parts > 1 then
  for part = 0, parts - 1 do places[part + 1] = old .. ':' .. part end
end
local function forget(members)
  for _, member in ipairs(members) do
    redis.call('UNLINK', ARGV[3] .. 'payload:' .. old .. ':' .. member)
  end
end
forget(listed('HKEYS', KEYS[5]))
for _, place in ipairs(places) do
  forget(listed('ZRANGE', ARGV[3] .. 'ready:' .. place, 0, -1))
  redis.call('UNLINK', ARGV[3] .. 'ready:' .. place, ARGV[3] .. 'arrived:' .. place)
end
for index = 2, 11 do redis.call('UNLINK', KEYS[index]) end
redis.call('SET', KEYS[1], string.format('%.0f', fence))
redis.call('HSET', KEYS[12], 'protocol', ARGV[2], 'parts', ARGV[4])
return 1
