-- stream: an open event stream takes or renews its place (RATE-4).
-- KEYS 1 streams (zset id by end of lease)  ARGV 1 id 2 limit 3 ttl ms
-- Returns 1, or 0 when there are too many others
local now = clock()
call('ZREMRANGEBYSCORE', KEYS[1], '-inf', int(now))
if not call('ZSCORE', KEYS[1], ARGV[1]) and call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
call('ZADD', KEYS[1], int(now + tonumber(ARGV[3])), ARGV[1])
call('PEXPIRE', KEYS[1], ARGV[3])
return 1
