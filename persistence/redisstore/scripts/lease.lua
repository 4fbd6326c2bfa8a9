-- lease: a member joins or renews; whoever is overdue is evicted (FENCE-1). If nobody was heard for half a lease the store
-- itself was away or its clock jumped ahead, and everyone gets a fresh lease instead of a mass eviction. A joining member
-- proves nothing of the kind. When the clock went back, no lease is longer than one granted now.
-- KEYS 1 leases (zset) 2 records (hash) 3 version 4 last beat 5 grains (hash)
-- ARGV 1 id 2 ttl ms 3 record 4 mode (join|renew|leave) 5 channel 6 grains
-- Returns {version, fenced(1|0), now, record...}
local ttl = tonumber(ARGV[2])
local now = clock()
local changed, fenced = false, 0
local last = tonumber(redis.call('GET', KEYS[4]) or '0')
if ARGV[4] == 'renew' and last > 0 and now - last > ttl / 2 then
  for _, m in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZADD', KEYS[1], int(now + ttl), m) end
end
if last > now then
  for _, m in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. int(now + ttl), '+inf')) do redis.call('ZADD', KEYS[1], int(now + ttl), m) end
end
redis.call('SET', KEYS[4], int(now))
for _, m in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now))) do
  redis.call('ZREM', KEYS[1], m); redis.call('HDEL', KEYS[2], m); redis.call('HDEL', KEYS[5], m); changed = true
end
if ARGV[4] == 'join' then
  redis.call('ZADD', KEYS[1], int(now + ttl), ARGV[1]); redis.call('HSET', KEYS[2], ARGV[1], ARGV[3]); changed = true
elseif ARGV[4] == 'leave' then
  if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then redis.call('HDEL', KEYS[2], ARGV[1]); redis.call('HDEL', KEYS[5], ARGV[1]); changed = true end
elseif redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  redis.call('ZADD', KEYS[1], int(now + ttl), ARGV[1])
  if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[3] then redis.call('HSET', KEYS[2], ARGV[1], ARGV[3]); changed = true end
else fenced = 1 end
if fenced == 0 and ARGV[4] ~= 'leave' then redis.call('HSET', KEYS[5], ARGV[1], ARGV[6]) end
local v = tonumber(redis.call('GET', KEYS[3]) or '0')
if changed then v = redis.call('INCR', KEYS[3]); redis.call('PUBLISH', ARGV[5], v) end
local out = {v, fenced, int(now)}
for _, r in ipairs(redis.call('HVALS', KEYS[2])) do out[#out + 1] = r end
return out
