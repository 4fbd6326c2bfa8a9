-- report: a runner's own count of a model call that bypassed the gateway (LLM-9). Idempotent by the report's id for a day.
-- KEYS 1 head 2 usage 3 reports (zset id by time) 4 events
-- ARGV 1 id 2 incarnation 3 runner epoch 4 turn ("" none) 5 input 6 output 7 cache write 8 cache read 9 count(1|0)
-- Returns {ok, counted(1|0), balance} or {key} {runner} {stale}
local h = call('HMGET', KEYS[1], 'inc', 'repoch', 'turn', 'lturn', 'session', 'balance', 'deleted')
if h[7] or (h[1] or '0') ~= ARGV[2] then return {'key'} end
if (h[2] or '0') ~= ARGV[3] then return {'runner'} end
if ARGV[4] ~= '' and ARGV[4] ~= h[3] and ARGV[4] ~= h[4] then return {'stale'} end
local now = clock()
call('ZREMRANGEBYSCORE', KEYS[3], '-inf', int(now - 86400000))
if call('ZADD', KEYS[3], 'NX', int(now), ARGV[1]) == 0 then return {'ok', 0, h[6] or '0'} end
local u = {i = tonumber(ARGV[5]), o = tonumber(ARGV[6]), w = tonumber(ARGV[7]), r = tonumber(ARGV[8]), n = 1}
if ARGV[9] == '1' then return {'ok', 1, int(charge(KEYS[1], KEYS[2], KEYS[4], ARGV[4] ~= '' and ARGV[4] or (h[3] or ''), h[5] or '', u))} end
sum(KEYS[2], 'reported', u)
return {'ok', 0, h[6] or '0'}
