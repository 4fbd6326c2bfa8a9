-- lease: a member joins or renews; whoever is overdue is evicted (FENCE-1). If nobody was heard for half a lease the store
-- itself was away or its clock jumped ahead, and everyone gets a fresh lease instead of a mass eviction. A joining member
-- proves nothing of the kind. When the clock went back, no lease is longer than one granted now.
-- KEYS 1 leases (zset) 2 records (hash) 3 version 4 last beat 5 grains (hash)
-- ARGV 1 id 2 ttl ms 3 record 4 mode (join|renew|leave) 5 channel 6 grains
-- Returns {version, fenced(1|0), now, record...}
local ttl = tonumber(ARGV[2])
local now = clock()
local changed, fenced = false, 0
local last = tonumber(call('GET', KEYS[4]) or '0')
if ARGV[4] == 'renew' and last > 0 and now - last > ttl / 2 then
  for _, m in ipairs(call('ZRANGE', KEYS[1], 0, -1)) do call('ZADD', KEYS[1], int(now + ttl), m) end
end
if last > now then
  for _, m in ipairs(call('ZRANGEBYSCORE', KEYS[1], '(' .. int(now + ttl), '+inf')) do call('ZADD', KEYS[1], int(now + ttl), m) end
end
call('SET', KEYS[4], int(now))
for _, m in ipairs(call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now))) do
  call('ZREM', KEYS[1], m); call('HDEL', KEYS[2], m); call('HDEL', KEYS[5], m); changed = true
end
if ARGV[4] == 'join' then
  call('ZADD', KEYS[1], int(now + ttl), ARGV[1]); call('HSET', KEYS[2], ARGV[1], ARGV[3]); changed = true
elseif ARGV[4] == 'leave' then
  if call('ZREM', KEYS[1], ARGV[1]) == 1 then call('HDEL', KEYS[2], ARGV[1]); call('HDEL', KEYS[5], ARGV[1]); changed = true end
elseif call('ZSCORE', KEYS[1], ARGV[1]) then
  call('ZADD', KEYS[1], int(now + ttl), ARGV[1])
  if call('HGET', KEYS[2], ARGV[1]) ~= ARGV[3] then call('HSET', KEYS[2], ARGV[1], ARGV[3]); changed = true end
else fenced = 1 end
if fenced == 0 and ARGV[4] ~= 'leave' then call('HSET', KEYS[5], ARGV[1], ARGV[6]) end
local v = tonumber(call('GET', KEYS[3]) or '0')
if changed then v = call('INCR', KEYS[3]); call('PUBLISH', ARGV[5], v) end
local out = {v, fenced, int(now)}
for _, r in ipairs(call('HVALS', KEYS[2])) do out[#out + 1] = r end
return out
