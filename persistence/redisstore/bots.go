package redisstore

import (
	"cmp"
	"context"
	"slices"

	"github.com/redis/go-redis/v9"

	"troupe/actors/agent"
)

const allBots = "bots"

func botKey(bot string) string { return "bot:{" + bot + "}" }

// PutBot implements agent.Bots. The use goes first, so that whoever takes the bot off the list at the same time sees it; a call that fails
// in between is repeated.
func (s *Store) PutBot(ctx context.Context, bot string, u agent.BotUse) error {
	if err := s.put(ctx, redis.NewIntCmd(ctx, "hset", botKey(bot), string(u.Agent), string(u.Channel))); err != nil {
		return err
	}
	return s.put(ctx, redis.NewIntCmd(ctx, "sadd", allBots, bot))
}

// DropBot implements agent.Bots.
func (s *Store) DropBot(ctx context.Context, bot string, id agent.ID) error {
	if err := s.put(ctx, redis.NewIntCmd(ctx, "hdel", botKey(bot), string(id))); err != nil {
		return err
	}
	left, err := s.rdb.HLen(ctx, botKey(bot)).Result()
	if err != nil || left > 0 {
		return storeErr(err)
	}
	if err := s.put(ctx, redis.NewIntCmd(ctx, "srem", allBots, bot)); err != nil {
		return err
	}
	if left, err = s.rdb.HLen(ctx, botKey(bot)).Result(); err != nil || left == 0 { // else somebody began to use it in between
		return storeErr(err)
	}
	return s.put(ctx, redis.NewIntCmd(ctx, "sadd", allBots, bot))
}

// Bot implements agent.Bots.
func (s *Store) Bot(ctx context.Context, bot string) ([]agent.BotUse, error) {
	all, err := s.rdb.HGetAll(ctx, botKey(bot)).Result()
	if err != nil {
		return nil, storeErr(err)
	}
	var out []agent.BotUse
	for id, channel := range all {
		out = append(out, agent.BotUse{Agent: agent.ID(id), Channel: agent.Channel(channel)})
	}
	slices.SortFunc(out, func(a, b agent.BotUse) int { return cmp.Compare(a.Agent, b.Agent) })
	return out, nil
}

// AllBots implements agent.Bots.
func (s *Store) AllBots(ctx context.Context) ([]string, error) {
	ids, err := s.rdb.SMembers(ctx, allBots).Result()
	return ids, storeErr(err)
}
