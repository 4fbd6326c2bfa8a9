-- leave: removes a route if it leads to the given agent.
-- KEYS 1 route  ARGV 1 agent
if call('GET', KEYS[1]) == ARGV[1] then return call('DEL', KEYS[1]) end
return 0
