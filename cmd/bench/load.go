package main

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// figures of one round.
type figures struct {
	rate     float64
	p50, p99 time.Duration
	cpu      time.Duration // of the server, per request
	failed   int
}

// load sends messages to one server for one round.
func load(addr string, pid int, ids []string) figures {
	return loadAll([]*node{{addr: addr, pid: pid}}, ids)
}

// loadAll sends messages from 64 connections, spread over the nodes, for one round.
func loadAll(nodes []*node, ids []string) figures {
	body := []byte(`{"content":"a message of ordinary length, about as long as people write them in a chat with an agent"}`)
	return loadWith(nodes, 201, func(req *fasthttp.Request, addr string, i int) {
		if i < 64 {
			req.Header.Set("Authorization", "Bearer "+key)
			req.SetBody(body)
		}
		req.SetRequestURI("http://" + addr + "/v1/agent/" + ids[i%len(ids)] + "/messages")
	})
}

// loadWith makes calls from 64 connections, spread over the nodes, for one round. Set prepares the ith call; those below 64 are the first of
// their connection.
func loadWith(nodes []*node, status int, set func(req *fasthttp.Request, addr string, i int)) figures {
	var hcs []*fasthttp.HostClient
	used := func() (sum time.Duration) {
		for _, n := range nodes {
			sum += cpu(n.pid)
		}
		return sum
	}
	for _, n := range nodes {
		hcs = append(hcs, &fasthttp.HostClient{Addr: n.addr, MaxConns: 128})
	}
	var mu sync.Mutex
	var lat []time.Duration
	var failed atomic.Int64
	var wg sync.WaitGroup
	before, start := used(), time.Now()
	for w := range 64 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			hc, addr := hcs[w%len(hcs)], nodes[w%len(hcs)].addr
			req, res := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			req.Header.SetMethod("POST")
			req.Header.SetContentType("application/json")
			var mine []time.Duration
			for i := w; time.Since(start) < *seconds; i += 64 {
				set(req, addr, i)
				t := time.Now()
				if err := hc.Do(req, res); err != nil || res.StatusCode() != status {
					if failed.Add(1) == 1 {
						fmt.Fprintf(os.Stderr, "bench: the first failure: %v %d %s\n", err, res.StatusCode(), res.Body())
					}
					continue
				}
				mine = append(mine, time.Since(t))
			}
			mu.Lock()
			lat = append(lat, mine...)
			mu.Unlock()
		}()
	}
	wg.Wait()
	took := time.Since(start)
	f := figures{rate: float64(len(lat)) / took.Seconds(), failed: int(failed.Load())}
	if len(lat) > 0 {
		slices.Sort(lat)
		f.p50, f.p99, f.cpu = lat[len(lat)/2], lat[len(lat)*99/100], (used()-before)/time.Duration(len(lat))
	}
	return f
}

func median(fs []figures) figures {
	slices.SortFunc(fs, func(a, b figures) int { return int(a.rate - b.rate) })
	return fs[len(fs)/2]
}
