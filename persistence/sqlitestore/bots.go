package sqlitestore

import (
	"context"

	"troupe/actors/agent"
)

// PutBot implements agent.Bots.
func (s *Store) PutBot(ctx context.Context, bot string, u agent.BotUse) error {
	return s.write(ctx, func(t *tx) error {
		t.exec(`INSERT OR REPLACE INTO bot VALUES (?,?,?)`, bot, string(u.Agent), string(u.Channel))
		return nil
	})
}

// DropBot implements agent.Bots.
func (s *Store) DropBot(ctx context.Context, bot string, id agent.ID) error {
	return s.write(ctx, func(t *tx) error {
		t.exec(`DELETE FROM bot WHERE bot=? AND agent=?`, bot, string(id))
		return nil
	})
}

// Bot implements agent.Bots.
func (s *Store) Bot(ctx context.Context, bot string) (out []agent.BotUse, err error) {
	rows, err := s.r.QueryContext(ctx, `SELECT agent, channel FROM bot WHERE bot=? ORDER BY agent`, bot)
	if err != nil {
		return nil, storeErr(err)
	}
	defer rows.Close()
	for rows.Next() {
		var u agent.BotUse
		if err := rows.Scan(&u.Agent, &u.Channel); err != nil {
			return nil, storeErr(err)
		}
		out = append(out, u)
	}
	return out, storeErr(rows.Err())
}

// AllBots implements agent.Bots.
func (s *Store) AllBots(ctx context.Context) (out []string, err error) {
	rows, err := s.r.QueryContext(ctx, `SELECT DISTINCT bot FROM bot`)
	if err != nil {
		return nil, storeErr(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, storeErr(err)
		}
		out = append(out, id)
	}
	return out, storeErr(rows.Err())
}
