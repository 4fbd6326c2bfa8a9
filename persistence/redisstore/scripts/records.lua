-- records: a page of an agent's records of one kind, by their index, and how many there are from the given score on.
-- KEYS 1 index 2 records  ARGV 1 from 2 newest first (1|0) 3 offset 4 limit 5 prefix of the records' names
-- Returns {total, body...}
local ids
if ARGV[2] == '1' then ids = call('ZREVRANGEBYSCORE', KEYS[1], '+inf', ARGV[1], 'LIMIT', ARGV[3], ARGV[4])
else ids = call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'LIMIT', ARGV[3], ARGV[4]) end
local out = {call('ZCOUNT', KEYS[1], ARGV[1], '+inf')}
for from = 1, #ids, 1000 do
  local names = {}
  for i = from, math.min(from + 999, #ids) do names[#names + 1] = ARGV[5] .. ids[i] end
  for _, body in ipairs(call('HMGET', KEYS[2], unpack(names))) do
    if body then out[#out + 1] = body end
  end
end
return out
