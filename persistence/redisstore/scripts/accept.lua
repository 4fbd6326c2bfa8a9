-- accept: a message enters an agent's inbox without a fence (MSG-1, FENCE-3).
-- KEYS 1 head 2 bodies 3 marks 4 order 5 pending 6 events 7 conversations 8 conversation counters 9 order of the party 10 idempotency
-- ARGV 1 account 2 message id 3 body 4 mark 5 party 6 channel 7 limit 8 interrupt(1|0) 9 idempotency hash 10 idempotency ttl ms
--      11 refuse when the clock is past this (0: never) 12 event data
-- Returns {ok, id, seq, created, status, replayed} or {gone} {status, status, reason} {full} {mismatch} {late}
-- Invariant: nothing is written unless everything is; repeating the call with the same id changes nothing.
local h = redis.call('HMGET', KEYS[1], 'account', 'status', 'reason', 'deleted', 'last', 'spec')
if not h[6] or h[4] or (ARGV[1] ~= '' and h[1] ~= ARGV[1]) then return {'gone'} end
if ARGV[9] ~= '' then
  local r = redis.call('HMGET', KEYS[10], 'hash', 'id', 'seq', 'at')
  if r[1] then
    if r[1] ~= ARGV[9] then return {'mismatch'} end
    return {'ok', r[2], r[3], r[4], h[2], '1'}
  end
end
local seen = redis.call('HGET', KEYS[2], ARGV[2])
if seen then
  local seq, at = string.match(seen, '^(%d+):(%d+):')
  return {'ok', ARGV[2], seq, at, h[2], '1'}
end
if h[2] == 'stopped' or h[2] == 'error' then return {'status', h[2], h[3] or ''} end
local now = clock()
if tonumber(ARGV[11]) > 0 and now > tonumber(ARGV[11]) then return {'late'} end
if redis.call('ZCARD', KEYS[5]) >= tonumber(ARGV[7]) then return {'full'} end
if h[5] and tonumber(h[5]) > now then now = tonumber(h[5]) end
local at = int(now)
local seq = redis.call('HINCRBY', KEYS[1], 'mseq', 1)
redis.call('HSET', KEYS[1], 'last', at)
redis.call('HINCRBY', KEYS[1], 'mcount', 1)
if ARGV[8] == '1' then redis.call('HSET', KEYS[1], 'intr', seq) end
redis.call('HSET', KEYS[2], ARGV[2], seq .. ':' .. at .. ':' .. ARGV[3])
redis.call('HSET', KEYS[3], ARGV[2], ARGV[4])
redis.call('ZADD', KEYS[4], seq, ARGV[2])
redis.call('ZADD', KEYS[5], seq, ARGV[2])
redis.call('ZADD', KEYS[7], at, ARGV[5])
redis.call('ZADD', KEYS[9], seq, ARGV[2])
redis.call('HINCRBY', KEYS[8], ARGV[5] .. ':t', 1)
redis.call('HINCRBY', KEYS[8], ARGV[5] .. ':u', 1)
redis.call('HSET', KEYS[8], ARGV[5] .. ':c', ARGV[6])
local e = redis.call('HINCRBY', KEYS[1], 'eseq', 1)
redis.call('XADD', KEYS[6], 'MAXLEN', '~', 10000, e .. '-0', 't', 'message.pending', 'a', at, 'd', ARGV[12])
if ARGV[9] ~= '' then
  redis.call('HSET', KEYS[10], 'hash', ARGV[9], 'id', ARGV[2], 'seq', seq, 'at', at)
  redis.call('PEXPIRE', KEYS[10], ARGV[10])
end
return {'ok', ARGV[2], int(seq), at, h[2], '0'}
