-- place: a place among an account's agents is reserved before the agent is written (IDEM-3, TEN-3).
-- KEYS 1 agents (zset id by creation) 2 idempotency (or agents)
-- ARGV 1 agent 2 limit (0 unlimited) 3 body hash ("" no key) 4 hold ms
-- Returns {ok, agent} {replay, agent, result} {busy} {mismatch} {limit}
-- A key in state "creating" blocks repeats for 60 s at most; then a repeat goes on with the same agent id.
local now = clock()
if ARGV[3] ~= '' then
  local r = call('HMGET', KEYS[2], 'hash', 'agent', 'result', 'until')
  if r[1] then
    if r[1] ~= ARGV[3] then return {'mismatch'} end
    if r[3] then return {'replay', r[2], r[3]} end
    if tonumber(r[4]) > now then return {'busy'} end
    call('HSET', KEYS[2], 'until', int(now + tonumber(ARGV[4])))
    call('ZADD', KEYS[1], 'NX', int(now), r[2])
    return {'ok', r[2]}
  end
end
if tonumber(ARGV[2]) > 0 and call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return {'limit'} end
call('ZADD', KEYS[1], int(now), ARGV[1])
if ARGV[3] ~= '' then
  call('HSET', KEYS[2], 'hash', ARGV[3], 'agent', ARGV[1], 'until', int(now + tonumber(ARGV[4])))
  call('PEXPIRE', KEYS[2], 86400000)
end
return {'ok', ARGV[1]}
