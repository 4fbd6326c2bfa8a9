-- release: the owner gives an identity up; the epoch stays so that it only ever grows.
-- KEYS 1 head  ARGV 1 member 2 epoch
local h = call('HMGET', KEYS[1], 'member', 'epoch')
if h[1] == ARGV[1] and h[2] == ARGV[2] then call('HDEL', KEYS[1], 'member', 'addr', 'pid'); return 1 end
return 0
