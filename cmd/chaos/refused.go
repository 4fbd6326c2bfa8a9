package main

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"time"
)

var rejection = regexp.MustCompile(`(?m)^troupe_fence_rejections_total\{[^}]*\} (\d+)`)

// countRefused adds up, until the returned function is called, how many stale writes the nodes report as refused. What a node
// counted since it was last asked dies with it.
func (w *world) countRefused() func() int {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	total, seen := 0, map[*node]int{}
	look := func() {
		for _, n := range w.nodes {
			now, ok := w.rejections(n)
			if !ok {
				continue
			}
			if now < seen[n] {
				seen[n] = 0 // it has started anew
			}
			total += now - seen[n]
			seen[n] = now
		}
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		for ctx.Err() == nil {
			look()
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	return func() int {
		cancel()
		wg.Wait()
		look()
		return total
	}
}

func (w *world) rejections(n *node) (sum int, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+n.addr+"/metrics", nil)
	if err != nil {
		return 0, false
	}
	res, err := w.http.Do(req)
	if err != nil {
		return 0, false
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		return 0, false
	}
	for _, m := range rejection.FindAllSubmatch(page, -1) {
		k, _ := strconv.Atoi(string(m[1]))
		sum += k
	}
	return sum, true
}
