-- settle: a model call ends; its reservation is released and its real use charged in one step (LLM-5). Idempotent by call.
-- KEYS 1 head 2 reservations 3 usage 4 events
-- ARGV 1 call 2 input 3 output 4 cache write 5 cache read 6 renew(1|0): only renew, with output so far in 3 and the ttl ms in 7
--      8 a call of the model loop(1|0)
-- Returns {1, balance} or {0, balance} when the call is not known (any more)
local r = call('HGET', KEYS[2], ARGV[1])
if not r then return {0, call('HGET', KEYS[1], 'balance') or '0'} end
local a, e, s, t, x = parse(r)
if ARGV[6] == '1' then
  call('HSET', KEYS[2], ARGV[1], int(a) .. '|' .. int(clock() + tonumber(ARGV[7])) .. '|' .. ARGV[3] .. '|' .. t .. '|' .. x)
  return {1, call('HGET', KEYS[1], 'balance') or '0'}
end
call('HDEL', KEYS[2], ARGV[1])
local u = {i = tonumber(ARGV[2]), o = tonumber(ARGV[3]), w = tonumber(ARGV[4]), r = tonumber(ARGV[5]), n = 1}
if u.i + u.o + u.w + u.r == 0 then return {1, call('HGET', KEYS[1], 'balance') or '0'} end
local read = u.i + u.w + u.r
if ARGV[8] == '1' and x ~= '' and read > 0 and call('HEXISTS', KEYS[1], 'comp') == 0 then -- calls of a compaction say nothing of the session (COMP-1)
  call('HSET', KEYS[1], 'ctx', int(read), 'ctxs', x)
end
return {1, int(charge(KEYS[1], KEYS[3], KEYS[4], t, x, u))}
