package redisstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
)

// An account's MCP servers are one hash: id → "version:document", and another one, name → id.

// mcpPut stores or, with an empty document, deletes a server.
// KEYS 1 servers 2 names  ARGV 1 id 2 version it was read at 3 name 4 document
var mcpPut = inline(`
local cur = redis.call('HGET', KEYS[1], ARGV[1])
local version = cur and string.match(cur, '^(%d+):') or '0'
if version ~= ARGV[2] then return cur and 'version' or 'gone' end
local former = cur and cjson.decode(string.sub(cur, string.find(cur, ':', 1, true) + 1)).name
if ARGV[4] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], former)
  return 'ok'
end
local owner = redis.call('HGET', KEYS[2], ARGV[3])
if owner and owner ~= ARGV[1] then return 'name' end
if former and former ~= ARGV[3] then redis.call('HDEL', KEYS[2], former) end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d', tonumber(version) + 1) .. ':' .. ARGV[4])
return 'ok'`)

func (s *Store) putMCP(ctx context.Context, a account.ID, id string, version int64, name string, doc []byte) error {
	res, err := s.script(ctx, len(id), mcpPut, []string{acct(a, "mcp"), acct(a, "mcpn")}, []any{id, version, name, doc})
	if err != nil {
		return err
	}
	switch res {
	case "ok":
		return nil
	case "name":
		return account.NameTaken()
	case "gone":
		return account.NoServer()
	case "version":
		return account.Moved()
	}
	return fault.Store(fmt.Errorf("unexpected answer %v", res))
}

// PutMCPServer implements account.MCPServers.
func (s *Store) PutMCPServer(ctx context.Context, m account.MCPServer) error {
	return s.putMCP(ctx, m.Account, m.ID, m.Version, m.Name, agent.Encode(m))
}

// DeleteMCPServer implements account.MCPServers.
func (s *Store) DeleteMCPServer(ctx context.Context, a account.ID, id string, version int64) error {
	return s.putMCP(ctx, a, id, version, "", nil)
}

func readMCP(row string) (m account.MCPServer, err error) {
	version, doc, _ := strings.Cut(row, ":")
	if m.Version, err = strconv.ParseInt(version, 10, 64); err == nil {
		err = json.Unmarshal([]byte(doc), &m)
	}
	return m, err
}

// MCPServer implements account.MCPServers.
func (s *Store) MCPServer(ctx context.Context, a account.ID, id string) (account.MCPServer, error) {
	row, err := s.rdb.HGet(ctx, acct(a, "mcp"), id).Result()
	if errors.Is(err, redis.Nil) {
		return account.MCPServer{}, account.NoServer()
	}
	if err != nil {
		return account.MCPServer{}, storeErr(err)
	}
	return readMCP(row)
}

// ListMCPServers implements account.MCPServers.
func (s *Store) ListMCPServers(ctx context.Context, a account.ID) ([]account.MCPServer, error) {
	rows, err := s.rdb.HVals(ctx, acct(a, "mcp")).Result()
	if err != nil {
		return nil, storeErr(err)
	}
	out := make([]account.MCPServer, 0, len(rows))
	for _, row := range rows {
		m, err := readMCP(row)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(x, y account.MCPServer) int { return strings.Compare(y.ID, x.ID) })
	return out, nil
}
