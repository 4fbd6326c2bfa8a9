-- reserve: output tokens are set aside before a model call (LLM-2, LLM-4). Reservations that were not renewed are settled
-- as fully used first, so a crash never opens the cap (LLM-7).
-- KEYS 1 head 2 reservations 3 usage 4 events
-- ARGV 1 call 2 incarnation 3 runner epoch ("0" not given) 4 turn ("" not given) 5 want 6 floor 7 overdraft 8 ttl ms 9 after turn ms
-- Returns {ok, tokens, turn, session, balance} or {key} {runner} {turn} {idle} {busy} {empty}
local h = call('HMGET', KEYS[1], 'inc', 'repoch', 'turn', 'lturn', 'tend', 'session', 'balance', 'deleted', 'odt', 'odu', 'comp')
if h[8] or (h[1] or '0') ~= ARGV[2] then return {'key'} end
if ARGV[3] ~= '0' and (h[2] or '0') ~= ARGV[3] then return {'runner'} end
local now = clock()
local turn = h[3] or ''
if turn == '' and h[4] and now <= tonumber(h[5] or '0') + tonumber(ARGV[9]) then turn = h[4] end
if turn == '' and not h[11] then return {'idle'} end
if ARGV[4] ~= '' and ARGV[4] ~= turn then return {'turn'} end
local open = 0
local all = call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  local a, e, s, t, x = parse(all[i + 1])
  if e < now then
    call('HDEL', KEYS[2], all[i])
    charge(KEYS[1], KEYS[3], KEYS[4], t, x, {i = 0, o = a, w = 0, r = 0, n = 1})
  elseif all[i] ~= ARGV[1] then open = open + a end
end
local balance = tonumber(call('HGET', KEYS[1], 'balance') or '0')
local od = tonumber(ARGV[7])
if od > 0 and h[9] == turn then od = math.max(0, od - tonumber(call('HGET', KEYS[1], 'odu') or '0')) end
local free = balance + od - open
local want = math.min(tonumber(ARGV[5]), free)
if want <= 0 or want < tonumber(ARGV[6]) then
  if balance > 0 and open > 0 then return {'busy'} end
  return {'empty', turn}
end
call('HSET', KEYS[2], ARGV[1], int(want) .. '|' .. int(now + tonumber(ARGV[8])) .. '|0|' .. turn .. '|' .. (h[6] or ''))
return {'ok', int(want), turn, h[6] or '', int(balance)}
