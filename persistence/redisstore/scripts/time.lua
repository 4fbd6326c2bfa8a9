-- Shared head of every script: the store's clock in ms (GEN-1), and whole numbers below 2^53 as text.
local call = redis.call
local format = string.format
local function clock()
  local t = call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local function int(x) return format('%d', x) end
