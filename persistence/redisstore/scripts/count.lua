-- count: a fixed window that starts with its first event; refused events change nothing (RATE-1).
-- KEYS 1 counter  ARGV 1 limit 2 window ms
-- Returns {count, ms to the end, refused(1|0)}
local n = tonumber(call('GET', KEYS[1]) or '0')
local left = call('PTTL', KEYS[1])
if left < 0 then n = 0 end
if n >= tonumber(ARGV[1]) then return {n, left, 1} end
if n == 0 then call('SET', KEYS[1], 1, 'PX', ARGV[2]); return {1, tonumber(ARGV[2]), 0} end
return {call('INCR', KEYS[1]), left, 0}
