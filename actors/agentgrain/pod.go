package agentgrain

import (
	"context"
	"encoding/json"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/actors/fault"
	"troupe/actors/protocol"
)

// Deadlines of what the pod child does.
const (
	startTimeout = 30 * time.Second
	stopTimeout  = agent.ShutdownGrace + 30*time.Second
	applyTimeout = 60 * time.Second
	initialFiles = "initial"
)

// podWish is what the grain wants of its pod; the newest replaces older ones.
type podWish struct {
	phase    agent.Phase
	spec     agent.PodSpec
	deleting bool
	grace    time.Duration
	idle     time.Time
	resize   int64
}

// wishKey is what makes a wish another one.
type wishKey struct {
	phase       agent.Phase
	incarnation int64
	deleting    bool
	busy        bool
	again       int64 // grows while the pod waits for room, or its volume for more
	held        int64 // grows with calls in the workspace
	resize      int64
}

// fileWish is a file change to be applied by the runner.
type fileWish struct {
	id       string
	endpoint string
	key      agent.Secret
}

// podReport is what the pod child saw.
type podReport struct {
	obs     agent.Observation
	phase   agent.Phase // of the wish
	deleted bool
	resized int64
	err     error
}

// fileReport is the end of a file change.
type fileReport struct {
	id     string
	usage  agent.DiskUsage
	update protocol.UpdateCommand
	err    error
}

// podChild works on the agent's pod: one operation at a time, on a goroutine that ends with its deadline.
type podChild struct {
	d      *Deps
	id     agent.ID
	wish   *podWish
	busy   bool
	filing bool
}

// failing is what the grain remembers of operations that failed in a row.
type failing struct {
	n     int
	phase agent.Phase
	until time.Time
}

// podBackoff are the pauses between them; whatever else happens to the agent does not shorten them.
var podBackoff = []time.Duration{time.Second, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}

type podDone struct{ report podReport }

// Receive implements actor.Actor.
func (p *podChild) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case podWish:
		p.wish = &m
		p.work(c)
	case fileWish:
		if !p.filing {
			p.apply(c, m)
		}
	case podDone:
		p.busy = false
		c.Send(c.Parent(), m.report)
		p.work(c)
	case fileReport:
		p.filing = false
		c.Send(c.Parent(), m)
	}
}

func (p *podChild) work(c actor.Context) {
	if p.busy || p.wish == nil {
		return
	}
	w := *p.wish
	p.wish, p.busy = nil, true
	self, root := c.Self(), c.ActorSystem().Root
	go func() { // ends with its deadlines
		var r podReport
		if err := fault.Caught(func() error { r = p.do(w); return nil }); err != nil {
			r = podReport{phase: w.phase, err: err}
		}
		root.Send(self, podDone{r})
	}()
}

// do carries out one wish and looks what is there afterwards.
func (p *podChild) do(w podWish) (r podReport) {
	r.phase = w.phase
	rt := p.d.Runtime
	run := func(limit time.Duration, f func(ctx context.Context) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		return f(ctx)
	}
	if w.resize > 0 { // whatever comes of it, the pod is looked after
		err := run(startTimeout, func(ctx context.Context) error { return rt.Resize(ctx, p.id, w.resize) })
		if err != nil {
			p.d.Log.Warn("volume was not resized", "agent_id", p.id, "bytes", w.resize, "err", err)
		}
		if err == nil || fault.Is(err, fault.Invalid) {
			r.resized = w.resize
		}
	}
	switch {
	case w.phase == agent.PodAbsent && !w.deleting:
		return r // nothing else is to be looked at
	case w.deleting && w.phase == agent.PodAbsent:
		r.err = run(stopTimeout, func(ctx context.Context) error { return rt.Delete(ctx, p.id) })
		r.deleted = r.err == nil
		return r
	case w.phase == agent.PodStopping:
		r.err = run(stopTimeout+w.grace, func(ctx context.Context) error { return rt.Stop(ctx, p.id, w.spec.Incarnation, w.grace) })
		if r.err == nil {
			r.obs = agent.Observation{Agent: p.id, Incarnation: w.spec.Incarnation, Phase: agent.PhaseGone, Reason: "stopped"}
		}
		return r
	case w.phase == agent.PodStarting:
		if r.err = run(startTimeout, func(ctx context.Context) error { return rt.Start(ctx, w.spec) }); r.err != nil {
			r.obs = agent.Observation{Agent: p.id, Incarnation: w.spec.Incarnation, Phase: agent.PhaseStarting, Reason: fault.Of(r.err).Message}
			if fault.Is(r.err, fault.Invalid) { // no repetition helps
				r.obs.Phase, r.err = agent.PhaseGone, nil
			}
			return r
		}
	case w.phase == agent.PodUp:
		rt.Idle(p.id, w.idle)
	}
	r.err = run(startTimeout, func(ctx context.Context) (err error) {
		r.obs, err = rt.Observe(ctx, p.id)
		return err
	})
	return r
}

// apply reads the change from the store and hands it to the runner's file server.
func (p *podChild) apply(c actor.Context, w fileWish) {
	p.filing = true
	self, root, d, id := c.Self(), c.ActorSystem().Root, p.d, p.id
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), applyTimeout)
		defer cancel()
		r := fileReport{id: w.id}
		r.err = fault.Caught(func() error {
			change, update, err := d.change(ctx, id, w.id)
			if r.update = update; err == nil {
				r.usage, err = d.Workspace.Apply(ctx, w.endpoint, w.key, w.id, change)
			}
			return err
		})
		root.Send(self, r)
	}()
}

// change loads a stored file change.
func (d *Deps) change(ctx context.Context, id agent.ID, which string) (c agent.FileChange, u protocol.UpdateCommand, err error) {
	kind := agent.RecordUpdate
	if which == initialFiles {
		kind = agent.RecordFiles
	}
	body, err := d.Store.Record(ctx, id, kind, which)
	if err != nil || body == nil {
		return c, u, err
	}
	if which == initialFiles {
		return c, u, json.Unmarshal(body, &c)
	}
	var sealed string
	if err = json.Unmarshal(body, &sealed); err != nil {
		return c, u, err
	}
	clear, err := d.Sealer.Open(string(id), "update", sealed)
	if err != nil {
		return c, u, err
	}
	if err = json.Unmarshal([]byte(clear), &u); err != nil {
		return c, u, err
	}
	c, err = agent.ReadChange(u.Document, d.Settings)
	return c, u, err
}

func (g *Grain) tellPod(c actor.Context, m *agent.Machine) {
	p := &m.S.Pod
	transit := p.Phase == agent.PodStarting || p.Phase == agent.PodStopping || m.S.Deleting || m.S.Resize > 0
	if !transit && p.Phase != agent.PodUp {
		if g.pod != nil {
			c.Unwatch(g.pod)
			c.Stop(g.pod)
			g.pod = nil
		}
		g.wished = wishKey{}
		return
	}
	if g.pod == nil {
		g.wished = wishKey{}
		g.pod = c.Spawn(actor.PropsFromProducer(func() actor.Actor { return &podChild{d: g.d, id: g.id} }))
		c.Watch(g.pod)
	}
	w := podWish{phase: p.Phase, deleting: m.S.Deleting, resize: m.S.Resize}
	w.spec.Incarnation = p.Incarnation
	switch p.Phase {
	case agent.PodStarting:
		spec, err := g.d.podSpec(&m.Spec, p.Incarnation)
		if err != nil {
			g.d.Log.Error("pod environment", "agent_id", g.id, "err", err)
			return
		}
		w.spec = spec
	case agent.PodStopping:
		w.grace = agent.ShutdownGrace
		if p.Why == "deleted" || p.Why == "lost" || p.Why == "lease_lost" || p.Why == "failed" {
			w.grace = 2 * time.Second
		}
	case agent.PodUp:
		if m.S.Turn == nil && m.S.Update == "" {
			w.idle = time.UnixMilli(max(m.S.ActiveMS, m.S.HoldMS))
		}
	}
	k := wishKey{w.phase, w.spec.Incarnation, w.deleting, w.idle.IsZero(), 0, m.S.HoldMS / 10_000, m.S.Resize}
	if p.Phase == agent.PodStarting && p.Waiting {
		k.again = m.Now / agent.WaitingLook.Milliseconds()
	}
	if m.S.Resize > 0 {
		k.again = m.Now / agent.ResizeLook.Milliseconds()
	}
	if p.Phase == g.failing.phase && time.Now().Before(g.failing.until) {
		return // perform looks again then
	}
	if k != g.wished { // told once; Observe asks again
		g.wished = k
		c.Send(g.pod, w)
	}
	if p.Phase == agent.PodUp && m.F.RunnerLive() && (m.S.FilesDue || m.S.Update != "") {
		info := agent.DecodeRunner(m.F.RunnerInfo)
		id := m.S.Update
		if m.S.FilesDue {
			id = initialFiles
		}
		if info.Endpoint != "" {
			c.Send(g.pod, fileWish{id: id, endpoint: info.Endpoint, key: g.d.Sealer.RuntimeKey(g.id, p.Incarnation)})
		}
	}
}

// observed takes in what the pod child saw.
func (g *Grain) observed(c actor.Context, r podReport) {
	if r.err != nil {
		g.d.Log.Warn("pod operation failed", "agent_id", g.id, "err", r.err)
		if r.obs.Reason != "" {
			if _, err := g.step(c, nil, func(m *agent.Machine) (any, error) { m.Observed(r.obs); return nil, nil }); g.gone || fault.Is(err, fault.Fenced) {
				return
			}
		}
		g.failing.n++
		pause := podBackoff[min(g.failing.n, len(podBackoff))-1]
		g.wished, g.failing.phase, g.failing.until = wishKey{}, r.phase, time.Now().Add(pause) // told again after a pause
		g.arm(pause)
		return
	}
	g.failing = failing{}
	if r.deleted {
		g.remove(c)
		return
	}
	if _, err := g.step(c, nil, func(m *agent.Machine) (any, error) {
		m.Observed(r.obs)
		m.Resized(r.resized)
		return nil, nil
	}); err != nil && !fault.Is(err, fault.Fenced) {
		g.arm(reloadPause)
	}
}

// remove ends a deletion: keys, place, rows (LIFE-6). Every part may be repeated; the rows go last.
func (g *Grain) remove(c actor.Context) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*commitTimeout)
	defer cancel()
	spec := &g.spec
	err := g.d.dropKeys(ctx, spec)
	if err == nil {
		err = account.RevokeAll(ctx, g.d.Places, spec.Account, string(g.id)) // MCP-5
	}
	if err == nil {
		err = g.leaveBots(ctx)
	}
	if err == nil {
		err = g.d.Places.FreePlace(ctx, account.Place{Account: spec.Account, Agent: string(g.id)})
	}
	if err == nil {
		err = g.d.Store.Purge(ctx, g.id)
	}
	if err != nil {
		g.d.Log.Warn("deletion is not complete yet", "agent_id", g.id, "err", err)
		g.arm(time.Second)
		return
	}
	g.d.Log.Info("agent deleted", "agent_id", g.id)
	g.act.Passivate(c)
}

func (d *Deps) dropKeys(ctx context.Context, spec *agent.Spec) error {
	keys, err := d.Places.ListPlatformKeys(ctx, spec.Account)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.Agent == string(spec.ID) { // LEG-2
			if err := d.Places.DeletePlatformKey(ctx, spec.Account, k.ID); err != nil && !fault.Is(err, fault.NotFound) {
				return err
			}
		}
	}
	return nil
}

// podSpec makes what the runtime needs to start an incarnation; the environment is that of POD-3.
func (d *Deps) podSpec(s *agent.Spec, incarnation int64) (agent.PodSpec, error) {
	key := d.Sealer.RuntimeKey(s.ID, incarnation)
	env := map[string]agent.Secret{}
	for _, name := range s.EnvNames() {
		v, err := d.Sealer.Open(string(s.ID), agent.SlotEnv(name), s.Sealed[agent.SlotEnv(name)])
		if err != nil {
			return agent.PodSpec{}, err
		}
		env[name] = agent.NewSecret(v)
	}
	base := d.Base
	if urls := d.URLs(); base == "" && len(urls) > 0 {
		base = urls[0]
	}
	for name, v := range map[string]string{
		"AGENT_UUID": string(s.ID), "ANTHROPIC_BASE_URL": base + "/v1/llm/anthropic", "ANTHROPIC_API_KEY": key.Reveal(), "SHINZO_API_KEY": key.Reveal(),
		"SHINZO_API_URL": base, "SHINZO_INTERNAL_API_URL": base,
	} {
		env[name] = agent.NewSecret(v)
	}
	size, _ := agent.QuantityBytes(s.PVCSize)
	return agent.PodSpec{Agent: s.ID, Incarnation: incarnation, Name: agent.PodName(s.ID), Env: env, SizeBytes: size,
		Ephemeral: s.Config.Memory.Persistence == "ephemeral"}, nil
}
