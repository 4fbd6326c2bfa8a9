-- beat: a runner renews its lease, or marks its command stream as open (FENCE-3, RUN-2).
-- KEYS 1 head  ARGV 1 incarnation 2 runner epoch 3 lease ms 4 execution status 5 subscribe(1|0)
-- Returns {ok} {key} {runner}
local h = call('HMGET', KEYS[1], 'inc', 'repoch', 'deleted', 'last')
if h[3] or (h[1] or '0') ~= ARGV[1] then return {'key'} end
if (h[2] or '0') ~= ARGV[2] then return {'runner'} end
local now = clock()
if h[4] and tonumber(h[4]) > now then now = tonumber(h[4]) end -- in the agent's time, which never goes back (GEN-1)
if ARGV[5] == '1' then
  call('HSET', KEYS[1], 'rsub', int(now))
else
  call('HSET', KEYS[1], 'rbeat', int(now), 'rlease', int(now + tonumber(ARGV[3])), 'rexec', ARGV[4])
end
return {'ok'}
