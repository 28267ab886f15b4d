#!lua flags=allow-oom
-- Puts back into ready what was committed and not fetched: a reply that carried a popped id may have been lost.
-- KEYS: ready committed.
local committed = redis.call('HGETALL', KEYS[2])
for index = 1, #committed, 2 do redis.call('ZADD', KEYS[1], committed[index + 1], committed[index]) end
return #committed / 2
