-- claim: compare-and-set of who acts for an identity (FENCE-1). Liveness of the former owner was judged by the caller; an identity that
-- nobody holds needs no judgement.
-- KEYS 1 head  ARGV 1 former member 2 former epoch 3 member 4 address 5 pid prefix
-- Returns {1, member, address, pid, epoch} or {0, the present claim}
local h = call('HMGET', KEYS[1], 'member', 'addr', 'pid', 'epoch')
if (h[1] or '') ~= '' and (h[1] ~= ARGV[1] or (h[4] or '0') ~= ARGV[2]) then return {0, h[1] or '', h[2] or '', h[3] or '', h[4] or '0'} end
local e = int(tonumber(h[4] or '0') + 1)
local pid = ARGV[5] .. '$' .. e
call('HSET', KEYS[1], 'member', ARGV[3], 'addr', ARGV[4], 'pid', pid, 'epoch', e)
return {1, ARGV[3], ARGV[4], pid, e}
