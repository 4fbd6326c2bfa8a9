-- sweep: what a shard of the clock has due, for its owner (FENCE-8). What is handed out comes again later.
-- KEYS 1 claim 2 due (zset agent by instant) 3 pending (zset agent by stamp)  ARGV 1 member 2 epoch 3 limit 4 pending age ms 5 handed out ms
-- Returns {ok, ms until the next alarm or -1, (agent, stamp, d|p)...} or {fenced}
local h = call('HMGET', KEYS[1], 'member', 'epoch')
if h[1] ~= ARGV[1] or h[2] ~= ARGV[2] then return {'fenced'} end
local now = clock()
local out = {'ok', '-1'}
local due = call('ZRANGEBYSCORE', KEYS[2], '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, ARGV[3])
local later, at = {}, int(now + tonumber(ARGV[5]))
for i = 1, #due, 2 do
  out[#out + 1] = due[i]; out[#out + 1] = due[i + 1]; out[#out + 1] = 'd'
  later[#later + 1] = at; later[#later + 1] = due[i]
end
if #later > 0 then call('ZADD', KEYS[2], unpack(later)) end
local first = call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES') -- what was handed out has moved
if first[2] then out[2] = int(math.max(tonumber(first[2]) - now, 0)) end
local again = int(now - 1000) -- older than any stamp of an acceptance that is on its way
for _, a in ipairs(call('ZRANGEBYSCORE', KEYS[3], '-inf', int(now - tonumber(ARGV[4])), 'LIMIT', 0, ARGV[3])) do
  out[#out + 1] = a; out[#out + 1] = again; out[#out + 1] = 'p'
  call('ZADD', KEYS[3], again, a)
end
return out
