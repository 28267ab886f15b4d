#!lua flags=allow-oom
-- Deletes every key of a run that does not expire by itself. What is not of the kind that it should be is passed over.
-- KEYS: fence leases owners meta, then all other keys of a fixed name. ARGV: prefix.
local fence = redis.pcall('GET', KEYS[1])
local function listed(...)
  local found = redis.pcall(...)
  return found.err and {} or found
end
local function forget(names, of)
  for _, name in ipairs(names) do redis.call('UNLINK', ARGV[1] .. of .. name) end
end
if type(fence) == 'string' then
  local places = {fence}
  local parts = redis.pcall('HGET', KEYS[4], 'parts')
  for part = 0, (type(parts) == 'string' and tonumber(parts) or 1) - 1 do places[#places + 1] = fence .. ':' .. part end
  forget(listed('HKEYS', KEYS[3]), 'payload:' .. fence .. ':')
  for _, place in ipairs(places) do forget(listed('ZRANGE', ARGV[1] .. 'ready:' .. place, 0, -1), 'payload:' .. fence .. ':') end
  forget(places, 'ready:')
  forget(places, 'arrived:')
end
for _, field in ipairs(listed('HKEYS', KEYS[4])) do
  local stream = string.match(field, '^stream:(.*)$')
  if stream then forget({stream}, '') end
end
for _, key in ipairs(KEYS) do redis.call('UNLINK', key) end
return 1
