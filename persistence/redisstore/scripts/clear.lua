-- clear: entries of a shard of the clock that have not changed since its owner read them (FENCE-8).
-- KEYS 1 claim 2 due 3 pending  ARGV 1 member 2 epoch 3... d|p, agent, stamp
-- Returns {ok} or {fenced}
local h = call('HMGET', KEYS[1], 'member', 'epoch')
if h[1] ~= ARGV[1] or h[2] ~= ARGV[2] then return {'fenced'} end
for i = 3, #ARGV, 3 do
  local key = ARGV[i] == 'd' and KEYS[2] or KEYS[3]
  if call('ZSCORE', key, ARGV[i + 1]) == ARGV[i + 2] then call('ZREM', key, ARGV[i + 1]) end
end
return {'ok'}
