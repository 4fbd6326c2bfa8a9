package main

import (
	"io"
	"net"
	"strings"
	"sync"
)

// gate forwards connections to one address. Closed, it is a partition: nothing passes and nobody is told.
type gate struct {
	addr  string
	to    string
	l     net.Listener
	mu    sync.Mutex
	cond  *sync.Cond
	shut  bool
	ended bool
	conns map[net.Conn]bool
	wg    sync.WaitGroup
	// rewrite changes what comes back; it must keep lengths. It is set before the first connection.
	rewrite *strings.Replacer
}

func openGate(to string) (*gate, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &gate{addr: l.Addr().String(), to: to, l: l, conns: map[net.Conn]bool{}}
	g.cond = sync.NewCond(&g.mu)
	g.wg.Add(1)
	go g.accept()
	return g, nil
}

// open lets traffic pass, or stops it where it is.
func (g *gate) open(pass bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = !pass
	g.cond.Broadcast()
}

func (g *gate) close() {
	g.mu.Lock()
	g.ended = true
	for c := range g.conns {
		_ = c.Close()
	}
	g.cond.Broadcast()
	g.mu.Unlock()
	_ = g.l.Close()
	g.wg.Wait()
}

// pass waits while the gate is shut; false when it has ended.
func (g *gate) pass() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.shut && !g.ended {
		g.cond.Wait()
	}
	return !g.ended
}

func (g *gate) track(c net.Conn, on bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if on && g.ended {
		return false
	}
	if on {
		g.conns[c] = true
	} else {
		delete(g.conns, c)
	}
	return true
}

func (g *gate) accept() {
	defer g.wg.Done()
	for {
		c, err := g.l.Accept()
		if err != nil {
			return
		}
		g.wg.Add(1)
		go func() {
			defer g.wg.Done()
			g.serve(c)
		}()
	}
}

func (g *gate) serve(in net.Conn) {
	defer in.Close()
	if !g.track(in, true) || !g.pass() {
		return
	}
	defer g.track(in, false)
	out, err := net.Dial("tcp", g.to)
	if err != nil {
		return
	}
	defer out.Close()
	if !g.track(out, true) {
		return
	}
	defer g.track(out, false)
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Add(1)
		go func() {
			defer both.Done()
			g.copy(way[1], way[0], way[0] == out)
			_ = in.Close() // one end is gone: so is the other
			_ = out.Close()
		}()
	}
	both.Wait()
}

func (g *gate) copy(to io.Writer, from io.Reader, back bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if !g.pass() {
			return
		}
		if n > 0 {
			out := buf[:n]
			if back && g.rewrite != nil {
				out = []byte(g.rewrite.Replace(string(out)))
			}
			if _, werr := to.Write(out); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
