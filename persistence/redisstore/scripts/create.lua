-- create: a whole new agent, idempotent by its id (IDEM-3).
-- KEYS 1 head 2 records 3 index of files 4 events
-- ARGV 1 account 2 spec 3 state 4 card 5 balance 6 files record ("" none) 7 event data
-- Returns the store's time in ms, of the first call when repeated
local at = call('HGET', KEYS[1], 'created')
if at then return at end
at = int(clock())
call('HSET', KEYS[1], 'account', ARGV[1], 'spec', ARGV[2], 'state', ARGV[3], 'card', ARGV[4], 'balance', ARGV[5],
  'status', 'active', 'created', at, 'last', at, 'v', 1)
if ARGV[6] ~= '' then
  call('HSET', KEYS[2], 'files/initial', ARGV[6])
  call('ZADD', KEYS[3], 0, 'initial')
end
local e = call('HINCRBY', KEYS[1], 'eseq', 1)
call('XADD', KEYS[4], 'MAXLEN', '~', 10000, at .. '-' .. int(e), 't', 'agent.status', 'd', ARGV[7])
return at
