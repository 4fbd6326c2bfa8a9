package rest

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"troupe/actors/account"
	"troupe/actors/agent"
	"troupe/http/api"
	"troupe/http/route"
)

// readsAtOnce is how many agents' sums are read side by side.
const readsAtOnce = 32

// periods returns the days, UTC, of today, of this week from Monday, and of this month, each up to today.
func periods(now time.Time) (days []string, week, month int) {
	now = now.UTC()
	week = (int(now.Weekday())+6)%7 + 1
	month = now.Day()
	for i := range max(week, month) {
		days = append(days, now.AddDate(0, 0, -i).Format(time.DateOnly))
	}
	return days, week, month
}

// usageSummary sums what the gateway has charged, by period and agent (LLM-8). Input is all that was read, from a cache or not.
// Agents that were deleted have taken their records with them.
func (r *rest) usageSummary(c *route.Call) (route.Response, error) {
	type row struct {
		agent string
		name  string
		days  []agent.Usage
	}
	var rows []*row
	err := r.Store.Agents(c.Ctx, c.Caller.Account.ID, func(e account.Entry) bool {
		var card agent.Card
		_ = json.Unmarshal(e.Card, &card) // a name for show
		rows = append(rows, &row{agent: e.Agent, name: card.Name})
		return true
	})
	if err != nil {
		return route.Response{}, err
	}
	days, week, month := periods(time.Now())
	scopes := make([]string, len(days))
	for i, d := range days {
		scopes[i] = "d/" + d
	}
	ctx, cancel := context.WithCancelCause(c.Ctx)
	defer cancel(nil)
	sem := make(chan struct{}, readsAtOnce)
	var wg sync.WaitGroup
	for _, x := range rows {
		sem <- struct{}{}
		wg.Add(1)
		go func() {
			defer func() { <-sem; wg.Done() }()
			var err error
			if x.days, err = r.Store.Usage(ctx, agent.ID(x.agent), scopes...); err != nil {
				cancel(err)
			}
		}()
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return route.Response{}, err
	}
	sum := func(n int) api.UsagePeriod {
		out := api.UsagePeriod{ByAgent: []api.AgentUsage{}}
		for _, x := range rows {
			var u agent.Usage
			for _, d := range x.days[:n] {
				u = u.Add(d)
			}
			if u.Requests == 0 {
				continue
			}
			in := u.Input + u.CacheRead + u.CacheWrite
			out.Input, out.Output, out.Requests = out.Input+in, out.Output+u.Output, out.Requests+u.Requests
			out.ByAgent = append(out.ByAgent, api.AgentUsage{UUID: x.agent, Name: x.name, Input: in, Output: u.Output, Requests: u.Requests})
		}
		slices.SortFunc(out.ByAgent, func(a, b api.AgentUsage) int {
			return cmp.Or(cmp.Compare(b.Output, a.Output), cmp.Compare(a.UUID, b.UUID))
		})
		return out
	}
	return route.OK(api.UsageSummary{Today: sum(1), Week: sum(week), Month: sum(month)}), nil
}
