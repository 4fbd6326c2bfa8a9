package sqlitestore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
)

// mcpAt checks that a server still is at the version that a write was decided on.
func (t *tx) mcpAt(a account.ID, id string, version int64) error {
	var now int64
	switch found := t.row(`SELECT version FROM mcp_server WHERE account=? AND id=?`, args(string(a), id), &now); {
	case !found && version > 0:
		return account.NoServer()
	case now != version:
		return account.Moved()
	}
	return nil
}

// PutMCPServer implements account.MCPServers.
func (s *Store) PutMCPServer(ctx context.Context, m account.MCPServer) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.mcpAt(m.Account, m.ID, m.Version); err != nil {
			return err
		}
		var owner string
		if t.row(`SELECT id FROM mcp_server WHERE account=? AND name=?`, args(string(m.Account), m.Name), &owner) && owner != m.ID {
			return account.NameTaken()
		}
		t.exec(`INSERT OR REPLACE INTO mcp_server VALUES (?,?,?,?,?)`, string(m.Account), m.ID, m.Name, m.Version+1, agent.Encode(m))
		return nil
	})
}

// DeleteMCPServer implements account.MCPServers.
func (s *Store) DeleteMCPServer(ctx context.Context, a account.ID, id string, version int64) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.mcpAt(a, id, version); err != nil {
			return err
		}
		t.exec(`DELETE FROM mcp_server WHERE account=? AND id=?`, string(a), id)
		return nil
	})
}

// MCPServer implements account.MCPServers.
func (s *Store) MCPServer(ctx context.Context, a account.ID, id string) (m account.MCPServer, err error) {
	var doc []byte
	var version int64
	err = s.r.QueryRowContext(ctx, `SELECT version, doc FROM mcp_server WHERE account=? AND id=?`, string(a), id).Scan(&version, &doc)
	if errors.Is(err, sql.ErrNoRows) {
		return m, account.NoServer()
	}
	if err != nil {
		return m, fault.Store(err)
	}
	err = json.Unmarshal(doc, &m)
	m.Version = version
	return m, err
}

// ListMCPServers implements account.MCPServers.
func (s *Store) ListMCPServers(ctx context.Context, a account.ID) (out []account.MCPServer, err error) {
	rows, err := s.r.QueryContext(ctx, `SELECT version, doc FROM mcp_server WHERE account=? ORDER BY id DESC`, string(a))
	if err != nil {
		return nil, fault.Store(err)
	}
	defer rows.Close()
	for rows.Next() {
		var m account.MCPServer
		var doc []byte
		var version int64
		if err := rows.Scan(&version, &doc); err != nil {
			return nil, fault.Store(err)
		}
		if err := json.Unmarshal(doc, &m); err != nil {
			return nil, err
		}
		m.Version = version
		out = append(out, m)
	}
	if err := rows.Err(); err != nil {
		return nil, fault.Store(err)
	}
	return out, nil
}
