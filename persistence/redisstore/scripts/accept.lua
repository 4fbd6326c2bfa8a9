-- accept: a message enters an agent's inbox without a fence (MSG-1, FENCE-3).
-- KEYS 1 head 2 bodies 3 order 4 pending 5 events 6 conversations 7 conversation counters 8 order of the party 9 idempotency
-- ARGV 1 account 2 message id 3 body 4 party 5 channel 6 limit 7 interrupt(1|0) 8 idempotency hash 9 idempotency ttl ms
--      10 refuse when the clock is past this 11 event data 12 channel to publish on 13 trigger ("" none)
--      14 what to add to the sequence for the place in the queue (QUE-6) 15 refused by a paused agent too (1|0, LEG-4)
-- Returns {ok, id, seq, created, status, replayed} or {gone} {status, status, reason} {full} {mismatch} {late, now}
-- Invariant: nothing is written unless everything is; repeating the call with the same id changes nothing.
-- A message without a mark is pending: the mark is first written when it leaves the queue.
local h = call('HMGET', KEYS[1], 'account', 'status', 'reason', 'deleted', 'last', 'created', 'mseq', 'mcount', 'eseq')
if not h[6] or h[4] or (ARGV[1] ~= '' and h[1] ~= ARGV[1]) then return {'gone'} end
if ARGV[8] ~= '' then
  local r = call('HMGET', KEYS[9], 'hash', 'id', 'seq', 'at')
  if r[1] then
    if r[1] ~= ARGV[8] then return {'mismatch'} end
    return {'ok', r[2], r[3], r[4], h[2], '1'}
  end
end
local function replay()
  local seen = call('HGET', KEYS[2], ARGV[2])
  if not seen then return nil end
  local seq, at = string.match(seen, '^(%d+):(%d+):')
  return {'ok', ARGV[2], seq, at, h[2], '1'}
end
if h[2] == 'stopped' or h[2] == 'error' or (h[2] == 'paused' and ARGV[15] == '1') then return replay() or {'status', h[2], h[3] or ''} end
local now = clock()
if now > tonumber(ARGV[10]) then return replay() or {'late', int(now)} end
if call('ZCARD', KEYS[4]) >= tonumber(ARGV[6]) then return replay() or {'full'} end
if h[5] and tonumber(h[5]) > now then now = tonumber(h[5]) end
local at = int(now)
local seq, e = int(tonumber(h[7] or '0') + 1), int(tonumber(h[9] or '0') + 1)
if call('HSETNX', KEYS[2], ARGV[2], seq .. ':' .. at .. ':' .. ARGV[3]) == 0 then return replay() end
call('HSET', KEYS[1], 'mseq', seq, 'mcount', int(tonumber(h[8] or '0') + 1), 'eseq', e, 'last', at)
if ARGV[7] == '1' then call('HSET', KEYS[1], 'intr', seq) end
call('ZADD', KEYS[3], seq, ARGV[2])
call('ZADD', KEYS[4], ARGV[14] == '0' and seq or int(seq + tonumber(ARGV[14])), ARGV[2])
call('ZADD', KEYS[8], seq, ARGV[2])
if call('ZADD', KEYS[6], at, ARGV[4]) == 1 then call('HSET', KEYS[7], ARGV[4] .. ':c', ARGV[5]) end
call('HINCRBY', KEYS[7], ARGV[4] .. ':u', 1)
if ARGV[13] ~= '' then
  call('HINCRBY', KEYS[7], ARGV[13] .. ':n', 1)
  call('HSET', KEYS[7], ARGV[13] .. ':at', at)
end
call('XADD', KEYS[5], 'MAXLEN', '~', 10000, at .. '-' .. e, 't', 'message.pending', 'd', ARGV[11])
if ARGV[8] ~= '' then
  call('HSET', KEYS[9], 'hash', ARGV[8], 'id', ARGV[2], 'seq', seq, 'at', at)
  call('PEXPIRE', KEYS[9], ARGV[9])
end
call('PUBLISH', ARGV[12], seq)
return {'ok', ARGV[2], seq, at, h[2], '0'}
