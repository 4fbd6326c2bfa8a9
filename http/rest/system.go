package rest

import (
	"context"
	"time"

	"troupe/actors/fault"
	"troupe/http/api"
	"troupe/http/route"
)

func (r *rest) systemRoutes() []route.Route {
	o := func(path, op string, h func(*route.Call) (route.Response, error)) route.Route {
		return route.Route{Method: "GET", Path: path, Op: op, Access: route.Open, Handle: h}
	}
	return []route.Route{
		o("/health", "getHealth", r.health),
		o("/health/deep", "getDeepHealth", r.deepHealth),
		{Method: "GET", Path: "/v1/cluster", Op: "getCluster", Access: route.Admin, Handle: r.cluster},
		{Method: "GET", Path: "/v1/spotlight/analytics/usage-summary", Op: "getUsageSummary", Access: route.Account, Handle: r.usageSummary},
		o("/metrics", "getMetrics", r.metrics),
		o("/openapi.yaml", "getOpenapiDocument", func(*route.Call) (route.Response, error) {
			return route.Response{Status: 200, Body: api.OpenAPI, Type: "application/yaml"}, nil
		}),
	}
}

// ping asks the store within a second (OBS-1).
func (r *rest) ping(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	start := time.Now()
	err := r.Store.Ping(ctx)
	return time.Since(start), err
}

func (r *rest) health(c *route.Call) (route.Response, error) {
	if _, err := r.ping(c.Ctx); err != nil {
		return route.Response{Status: 503, Body: api.Health{Status: "unhealthy", Database: "unhealthy"}}, nil
	}
	return route.OK(api.Health{Status: "healthy", Database: "healthy"}), nil
}

func dependency(took time.Duration, err error) api.DependencyHealth {
	if err != nil {
		return api.DependencyHealth{Status: "unhealthy"}
	}
	ms := float64(took.Microseconds()) / 1000
	return api.DependencyHealth{Status: "healthy", LatencyMS: &ms}
}

func (r *rest) deepHealth(c *route.Call) (route.Response, error) {
	out := api.DeepHealth{Status: "healthy", Timestamp: stamp(time.Now())}
	took, err := r.ping(c.Ctx)
	out.Database = dependency(took, err)
	if r.Cluster != nil {
		took, cerr := r.Cluster()
		d := dependency(took, cerr)
		out.Cluster = &d
		if cerr != nil {
			out.Status = "degraded"
		}
	}
	if r.Kubernetes != nil {
		ctx, cancel := context.WithTimeout(c.Ctx, time.Second)
		start := time.Now()
		kerr := r.Kubernetes(ctx)
		cancel()
		d := dependency(time.Since(start), kerr)
		out.Kubernetes = &d
		if kerr != nil {
			out.Status = "degraded"
		}
	}
	if err != nil {
		out.Status = "unhealthy"
		return route.Response{Status: 503, Body: out}, nil
	}
	return route.OK(out), nil
}

func (r *rest) metrics(*route.Call) (route.Response, error) {
	if r.Scrape == nil {
		return route.Response{}, fault.New(fault.NotFound, "not_found", "Metrics are not served here")
	}
	return route.Response{Status: 200, Body: r.Scrape(), Type: "text/plain; version=0.0.4; charset=utf-8"}, nil
}
