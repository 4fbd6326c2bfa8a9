-- Shared by reserve and settle: charging and the sums of usage (BAL-2, BAL-4, LLM-8).
local function day(ms)
  local z = math.floor(ms / 86400000) + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local d = doy - math.floor((153 * mp + 2) / 5) + 1
  local m = mp < 10 and mp + 3 or mp - 9
  local y = yoe + era * 400 + (m <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02d', y, m, d)
end
local function sum(key, scope, u)
  for _, f in ipairs({'i', 'o', 'w', 'r', 'n'}) do
    if u[f] > 0 then call('HINCRBY', key, scope .. ':' .. f, int(u[f])) end
  end
end
-- charge takes the output tokens off the balance, never below zero; what goes beyond it is the overdraft of the turn.
local function charge(head, usage, events, turn, session, u)
  local b = tonumber(call('HGET', head, 'balance') or '0')
  local left = b - u.o
  if left < 0 then
    local t = call('HGET', head, 'odt')
    if t ~= turn then call('HSET', head, 'odt', turn, 'odu', '0') end
    call('HINCRBY', head, 'odu', int(-left))
    left = 0
  end
  call('HSET', head, 'balance', int(left))
  call('HINCRBY', head, 'used', int(u.o))
  if left ~= b then
    local now, last = clock(), call('HGET', head, 'last')
    if last and tonumber(last) > now then now = tonumber(last) end
    local e = int(call('HINCRBY', head, 'eseq', 1))
    call('HSET', head, 'last', int(now))
    call('XADD', events, 'MAXLEN', '~', 10000, int(now) .. '-' .. e, 't', 'balance.changed', 'd',
      '{"balance":' .. int(left) .. ',"previous":' .. int(b) .. ',"cause":"usage"}')
    call('PUBLISH', string.sub(events, 1, -2) .. 't', e) -- the agent's topic
  end
  if turn ~= '' then sum(usage, 't/' .. turn, u) end
  if session ~= '' then sum(usage, 's/' .. session, u) end
  sum(usage, 'd/' .. day(clock()), u)
  sum(usage, 'all', u)
  return left
end
-- A reservation is stored as amount|expires|so far|turn|session.
local function parse(r)
  local a, e, s, t, x = string.match(r, '^(%d+)|(%d+)|(%d+)|([^|]*)|([^|]*)$')
  return tonumber(a), tonumber(e), tonumber(s), t, x
end
