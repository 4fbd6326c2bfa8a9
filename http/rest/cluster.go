package rest

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"troupe/actors/agent"
	"troupe/http/api"
	"troupe/http/route"
)

// Membership is this node's view of the cluster.
type Membership interface {
	Name() string
	Self() agent.Member
	Members() []agent.Member // by their newest topology
	Held() bool              // this node's own lease
	Census(ctx context.Context) (map[string]agent.Standing, error)
	Owner(ctx context.Context, kind, identity string) (agent.Claim, error)
}

// cluster shows members, activations and who owns the shards of the clock.
func (r *rest) cluster(c *route.Call) (route.Response, error) {
	m := r.Members
	census, err := m.Census(c.Ctx)
	if err != nil {
		return route.Response{}, err
	}
	out := api.Cluster{Name: m.Name(), Node: m.Self().ID, GeneratedAt: stamp(time.Now()), Members: []api.ClusterMember{}, Grains: map[string]int{}, Shards: []api.ClusterShard{}}
	for _, x := range m.Members() {
		st, leased := census[x.ID]
		row := api.ClusterMember{ID: x.ID, Address: x.Address, Status: "alive", Version: x.Version, StartedAt: agent.Stamp(x.StartedMS), Kinds: x.Kinds, Grains: st.Grains}
		switch {
		case !leased:
			row.Status = "unreachable"
		case x.Draining:
			row.Status = "leaving"
		}
		if row.Grains == nil {
			row.Grains = map[string]int{}
		}
		for kind, n := range row.Grains {
			out.Grains[kind] += n
		}
		out.Members = append(out.Members, row)
	}
	slices.SortFunc(out.Members, func(a, b api.ClusterMember) int {
		return cmp.Or(cmp.Compare(a.StartedAt, b.StartedAt), cmp.Compare(a.ID, b.ID))
	})
	for i := range r.Shards {
		claim, err := m.Owner(c.Ctx, agent.KindClock, strconv.Itoa(i))
		if err != nil {
			return route.Response{}, err
		}
		shard := api.ClusterShard{Shard: i, Epoch: claim.Epoch}
		if st, ok := census[claim.Member]; ok {
			shard.Owner, shard.LeaseExpiresAt = text(claim.Member), agent.StampOrNil(st.LeaseMS)
		}
		out.Shards = append(out.Shards, shard)
	}
	return route.OK(out), nil
}
