package member

import (
	"context"
	"sync"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/cluster"

	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
)

// rousals is how often Rouse asks: the second time without members that did not answer.
const rousals = 2

// listsAtOnce is how many lists are on their way to a member; more wait. With more, all are claimed before the first has done anything.
const listsAtOnce = 2

// askList is how long a member may take for a list: under load it is behind much else, and one that is gone is mostly known to be.
const askList = askPlacement

// Rouse tells many identities of a kind that something of theirs is due: each member that should have some of them gets them in one list, activates
// those that are not active and answers when all of them are told. It returns those that were not reached: another member holds them, too
// many are taken over in this second, or nobody answered.
func (l *Lookup) Rouse(ctx context.Context, kind string, identities []string) (left []string) {
	for try := 0; len(identities) > 0 && try < rousals && ctx.Err() == nil; try++ {
		lists := map[string][]string{}
		members := map[string]agent.Member{}
		v := l.provider.View()
		for _, id := range identities {
			o, ok := v.owner(kind, id, l.suspect)
			if !ok {
				left = append(left, id)
				continue
			}
			members[o.ID] = o
			lists[o.ID] = append(lists[o.ID], id)
		}
		identities = nil
		var mu sync.Mutex
		var wg sync.WaitGroup
		for member, list := range lists {
			wg.Go(func() {
				missed, answered := l.rouse(ctx, members[member], kind, list)
				mu.Lock()
				defer mu.Unlock()
				if answered {
					left = append(left, missed...)
					return
				}
				identities = append(identities, list...)
			})
		}
		wg.Wait()
	}
	return append(left, identities...)
}

// rouse gives a member its list, and suspects it if it does not answer. It waits no longer than until somebody else suspects it: a lost
// connection tells nothing to those who wait for an answer over it.
func (l *Lookup) rouse(ctx context.Context, m agent.Member, kind string, list []string) (left []string, answered bool) {
	way := l.way(m.ID)
	select {
	case way <- struct{}{}:
	case <-ctx.Done():
		return nil, false
	}
	defer func() { <-way }()
	other := m.ID != l.provider.Self().ID
	if other && l.suspect(m.ID) { // since it was chosen
		return nil, false
	}
	cmd := protocol.NewCommand(protocol.Rouse, protocol.RouseCommand{Kind: kind, Identities: list})
	answer := l.c.ActorSystem.Root.RequestFuture(actor.NewPID(m.Address, placementName), cmd, askList)
	came := make(chan any, 1)
	go func() { // ends with the future, which has a deadline
		res, _ := answer.Result()
		came <- res
	}()
	for {
		doubt := l.doubted()
		if other && l.suspect(m.ID) {
			return nil, false
		}
		select {
		case <-doubt:
		case res := <-came:
			if r, ok := res.(*protocol.Reply); ok {
				out, err := protocol.Decode[protocol.RouseResult](r.Body)
				if r.Err() != nil || err != nil {
					return list, true // it lives, and does not know lists
				}
				return out.Left, true
			}
			if other {
				l.suspected(m.ID)
			}
			return nil, false
		}
	}
}

// way is where the lists to a member pass: each member has its own, so that one that does not answer holds up none of the others.
func (l *Lookup) way(member string) chan struct{} {
	v := l.provider.View()
	l.mu.Lock()
	defer l.mu.Unlock()
	w, ok := l.ways[member]
	if !ok {
		for id, old := range l.ways {
			if _, alive := v.Alive(id); !alive && len(old) == 0 {
				delete(l.ways, id)
			}
		}
		w = make(chan struct{}, listsAtOnce)
		l.ways[member] = w
	}
	return w
}

// waiter is told where an identity is active; nil: nowhere, and whoever asked comes back in a moment.
type waiter interface {
	placed(c actor.Context, identity string, pid *actor.PID)
}

// caller waits for one identity.
type caller struct{ pid *actor.PID }

func (w caller) placed(c actor.Context, _ string, pid *actor.PID) {
	c.Send(w.pid, &cluster.ActivationResponse{Pid: pid, Failed: pid == nil})
}

// list is one of Rouse: it answers when every identity is placed, or is known not to be.
type list struct {
	pid  *actor.PID
	open int
	left []string
}

func (w *list) placed(c actor.Context, identity string, pid *actor.PID) {
	if pid == nil {
		w.left = append(w.left, identity)
	} else {
		c.Send(pid, &protocol.Command{Kind: protocol.Due})
	}
	if w.open--; w.open == 0 {
		c.Send(w.pid, protocol.Answer(protocol.RouseResult{Left: w.left}, nil))
	}
}

// rouse activates a list.
func (p *placement) rouse(c actor.Context, cmd *protocol.Command) {
	if c.Sender() == nil {
		return
	}
	if cmd.Kind != protocol.Rouse {
		c.Respond(protocol.Answer(nil, fault.Newf(fault.Unavailable, "dependency_unavailable", "This member does not know the command %q", cmd.Kind)))
		return
	}
	body, err := protocol.Decode[protocol.RouseCommand](cmd.Body)
	if err != nil || len(body.Identities) == 0 {
		c.Respond(protocol.Answer(protocol.RouseResult{}, err))
		return
	}
	w := &list{pid: c.Sender(), open: len(body.Identities)}
	var cis []*cluster.ClusterIdentity
	for _, id := range body.Identities {
		if ci := (&cluster.ClusterIdentity{Kind: body.Kind, Identity: id}); p.wants(c, ci, w) {
			cis = append(cis, ci)
		}
	}
	if len(cis) == 0 {
		return
	}
	self, root, l := c.Self(), c.ActorSystem().Root, p.l
	go l.claimList(cis, self.Id, func(outcome any) { root.Send(self, outcome) })
}

// claimList claims identities of one kind: at once those that nobody holds, one by one those that a dead member held.
func (l *Lookup) claimList(cis []*cluster.ClusterIdentity, parent string, tell func(outcome any)) {
	l.sem <- struct{}{}
	ctx, cancel := context.WithTimeout(context.Background(), claimTimeout)
	defer cancel()
	self, v := l.provider.Self(), l.provider.View()
	wanted := make([]agent.Wanted, len(cis))
	for i, ci := range cis {
		wanted[i] = agent.Wanted{Identity: ci.Identity, PID: parent + "/" + ci.AsKey()}
	}
	all := make([]agent.Claimed, len(cis))
	if l.provider.Held() {
		all = l.claims.ClaimFree(ctx, cis[0].Kind, wanted, self.ID, self.Address)
	}
	<-l.sem
	var known []*claimed
	for i, x := range all {
		if _, alive := v.Alive(x.Claim.Member); x.Err == nil && !x.Mine && x.Claim.Member != "" && (!alive || x.Claim.Member == self.ID) {
			go func() { tell(l.claim(cis[i], parent)) }()
			continue
		}
		known = append(known, &claimed{ci: cis[i], claim: x.Claim, mine: x.Mine, err: x.Err})
	}
	tell(known)
}
