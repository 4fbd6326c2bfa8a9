-- commit: the unit of work of an activation, all or nothing, under its fence (FENCE-2).
-- KEYS 1 head 2 bodies 3 marks 4 order 5 pending 6 events 7 conversations 8 conversation counters 9 commands 10 records
--      11 idempotency (or head) 12... order of a party, index of a kind of records, or a clock's due entries, named by position in the operations
-- ARGV 1 member 2 epoch 3 version 4 guard incarnation ("" none) 5 guard runner epoch 6 balance change (""|set|add) 7 amount
--      8 channel to publish on 9 once(1|0): answer {done, result} if the idempotency key is there 10 cause of the balance change, then operations:
--      H field value | S spec | T state | A id body mark party key channel | Q the same, queued | - id | + id seq | M id mark party unread
--      R field body score id key | r field body | D field id key | C kind body | X kind... | Z | E type data | I hash result ttl | L lease
--      K key due id exactly(1|0): the alarm; due 0 removes it
-- Returns {ok, version, now, runner epoch, balance before, after, (seq, created)...} or {fenced} {version, v} {runner} {key} {balance, b}
-- Invariant: every check comes before the first write.
local head = KEYS[1]
local h = call('HMGET', head, 'member', 'epoch', 'v', 'inc', 'repoch', 'balance', 'last', 'account', 'mseq', 'mcount', 'eseq')
if h[1] ~= ARGV[1] or h[2] ~= ARGV[2] then return {'fenced'} end
if not h[8] then return {'gone'} end
if ARGV[9] == '1' then
  local r = call('HGET', KEYS[11], 'result')
  if r then return {'done', r} end
end
if (h[3] or '0') ~= ARGV[3] then return {'version', h[3] or '0'} end
if ARGV[4] ~= '' then
  if (h[4] or '0') ~= ARGV[4] then return {'key'} end
  if ARGV[5] ~= '0' and (h[5] or '0') ~= ARGV[5] then return {'runner'} end
end
local before = tonumber(h[6] or '0')
local after = before
if ARGV[6] == 'set' then after = tonumber(ARGV[7]) elseif ARGV[6] == 'add' then after = before + tonumber(ARGV[7]) end
if after < 0 or after > 9007199254740991 then return {'balance', int(before)} end
local now = clock()
if h[7] and tonumber(h[7]) > now then now = tonumber(h[7]) end
local at = int(now)
local version = int(tonumber(h[3] or '0') + 1)
local set = {'v', version, 'last', at} -- of the head: written at once, at the end
local function put(field, value) set[#set + 1] = field; set[#set + 1] = value end
local mseq, mcount, eseq = tonumber(h[9] or '0'), tonumber(h[10] or '0'), tonumber(h[11] or '0')
local messages, events = mseq, eseq
local records = {} -- to be written at once as well, in their order with what is dropped
local function store()
  for from = 1, #records, 1000 do call('HSET', KEYS[10], unpack(records, from, math.min(from + 999, #records))) end
  records = {}
end
local function event(kind, data)
  eseq = eseq + 1
  call('XADD', KEYS[6], 'MAXLEN', '~', 10000, at .. '-' .. int(eseq), 't', kind, 'd', data)
end
if after ~= before then
  put('balance', int(after))
  event('balance.changed', '{"balance":' .. int(after) .. ',"previous":' .. int(before) .. ',"cause":"' .. ARGV[10] .. '"}')
end
local out = {'ok', version, at, h[5] or '0', int(before), int(after)}
local i = 11
while ARGV[i] do
  local op = ARGV[i]
  if op == 'H' then
    if ARGV[i + 2] == '' then call('HDEL', head, ARGV[i + 1]) else put(ARGV[i + 1], ARGV[i + 2]) end
    i = i + 3
  elseif op == 'S' then put('spec', ARGV[i + 1]); i = i + 2
  elseif op == 'T' then put('state', ARGV[i + 1]); i = i + 2
  elseif op == 'A' or op == 'Q' then
    mseq, mcount = mseq + 1, mcount + 1
    local seq = int(mseq)
    call('HSET', KEYS[2], ARGV[i + 1], seq .. ':' .. at .. ':' .. ARGV[i + 2])
    if op == 'A' then call('HSET', KEYS[3], ARGV[i + 1], ARGV[i + 3]) -- a message without a mark is pending
    else
      call('ZADD', KEYS[5], seq, ARGV[i + 1])
      call('HINCRBY', KEYS[8], ARGV[i + 4] .. ':u', 1)
    end
    call('ZADD', KEYS[4], seq, ARGV[i + 1])
    call('ZADD', KEYS[tonumber(ARGV[i + 5])], seq, ARGV[i + 1])
    if call('ZADD', KEYS[7], at, ARGV[i + 4]) == 1 then call('HSET', KEYS[8], ARGV[i + 4] .. ':c', ARGV[i + 6]) end
    out[#out + 1] = seq; out[#out + 1] = at
    i = i + 7
  elseif op == '-' then call('ZREM', KEYS[5], ARGV[i + 1]); i = i + 2
  elseif op == '+' then call('ZADD', KEYS[5], ARGV[i + 2], ARGV[i + 1]); i = i + 3
  elseif op == 'M' then
    call('HSET', KEYS[3], ARGV[i + 1], ARGV[i + 2])
    if ARGV[i + 4] ~= '0' then call('HINCRBY', KEYS[8], ARGV[i + 3] .. ':u', ARGV[i + 4]) end
    i = i + 5
  elseif op == 'R' then
    records[#records + 1] = ARGV[i + 1]; records[#records + 1] = ARGV[i + 2]
    call('ZADD', KEYS[tonumber(ARGV[i + 5])], ARGV[i + 3], ARGV[i + 4])
    i = i + 6
  elseif op == 'r' then records[#records + 1] = ARGV[i + 1]; records[#records + 1] = ARGV[i + 2]; i = i + 3
  elseif op == 'D' then
    store()
    call('HDEL', KEYS[10], ARGV[i + 1])
    call('ZREM', KEYS[tonumber(ARGV[i + 3])], ARGV[i + 2])
    i = i + 4
  elseif op == 'C' then
    local seq = call('HINCRBY', head, 'cseq', 1)
    call('ZADD', KEYS[9], seq, int(seq) .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 2])
    call('ZREMRANGEBYRANK', KEYS[9], 0, -101)
    i = i + 3
  elseif op == 'X' then
    for _, c in ipairs(call('ZRANGE', KEYS[9], 0, -1)) do
      local kind = string.match(c, '^%d+ (%S+) ')
      if string.find(' ' .. ARGV[i + 1] .. ' ', ' ' .. kind .. ' ', 1, true) then call('ZREM', KEYS[9], c) end
    end
    i = i + 2
  elseif op == 'Z' then call('DEL', KEYS[9]); i = i + 1
  elseif op == 'E' then
    event(ARGV[i + 1], ARGV[i + 2])
    i = i + 3
  elseif op == 'I' then
    local r = ARGV[i + 2] -- a balance command's result is known only here
    if r == '' then r = '{"previous":' .. int(before) .. ',"balance":' .. int(after) .. '}' end
    call('HSET', KEYS[11], 'hash', ARGV[i + 1], 'result', r)
    call('PEXPIRE', KEYS[11], ARGV[i + 3])
    i = i + 4
  elseif op == 'L' then
    out[4] = int(call('HINCRBY', head, 'repoch', 1))
    put('ratt', at); put('rbeat', at); put('rlease', int(now + tonumber(ARGV[i + 1])))
    call('HDEL', head, 'rsub')
    i = i + 2
  elseif op == 'K' then
    local key = KEYS[tonumber(ARGV[i + 1])]
    if ARGV[i + 2] == '0' then call('ZREM', key, ARGV[i + 3])
    elseif ARGV[i + 4] == '1' then call('ZADD', key, ARGV[i + 2], ARGV[i + 3])
    else call('ZADD', key, 'LT', ARGV[i + 2], ARGV[i + 3]) end
    i = i + 5
  else error('unknown operation ' .. op) end
end
if mseq > messages then put('mseq', int(mseq)); put('mcount', int(mcount)) end
if eseq > events then put('eseq', int(eseq)) end
store()
call('HSET', head, unpack(set))
call('PUBLISH', ARGV[8], version)
return out
