// Package webhook carries an agent's events to its receivers (§23).
//
// An attempt is one signed POST through the egress guard: ten seconds in all, no redirects, the answer read up to 64 KiB and thrown away.
// When an attempt is made, and what follows from its result, is decided by actors/agent; this room only makes it.
//
// A node makes a bounded number of attempts at a time, and of those to one receiver only a small part: a receiver that hangs holds up
// nobody else's events. An attempt that finds no room in ten seconds has failed like one that got no answer.
package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"golang.org/x/sync/semaphore"

	"troupe/actors/agent"
	"troupe/http/egress"
)

const (
	maxAnswer = 64 << 10 // bytes read of an answer (OUT-7)
	maxTotal  = 1024     // attempts under way on this node
	maxHost   = 64       // of those to one receiver
)

// Sender is the agent.Courier. Its client must not follow redirects.
type Sender struct {
	client *http.Client
	set    agent.Settings
	agent  string // User-Agent

	total *semaphore.Weighted
	mu    sync.Mutex
	hosts map[string]*place
}

// New returns a sender that calls through client.
func New(client *http.Client, set agent.Settings, version string) *Sender {
	return &Sender{client: client, set: set, agent: "troupe/" + version, total: semaphore.NewWeighted(maxTotal), hosts: map[string]*place{}}
}

// Send implements agent.Courier.
func (s *Sender) Send(ctx context.Context, o *agent.Outgoing, secrets []agent.Secret) agent.Attempt {
	if why := agent.CheckURL(o.URL, s.set); why != "" { // the installation may have become stricter
		return agent.Attempt{Error: "The URL " + why}
	}
	u, err := url.Parse(o.URL)
	if err != nil {
		return agent.Attempt{Error: "The URL must be an absolute URL"}
	}
	leave, ok := s.enter(ctx, strings.ToLower(u.Hostname()))
	if !ok {
		return agent.Attempt{Error: "Too many attempts are under way"}
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, agent.AttemptTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.URL, bytes.NewReader(o.Payload))
	if err != nil {
		return agent.Attempt{Error: "The URL must be an absolute URL"}
	}
	if err := sign(req.Header, agent.DeliveryID(o.ID), time.Now(), o.Payload, secrets); err != nil {
		return agent.Attempt{Error: "The signing secret cannot be used"}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", s.agent)
	res, err := s.client.Do(req)
	if err != nil {
		return agent.Attempt{Error: explain(err)}
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer)) // so that the connection can be used again; the status says it all
	_ = res.Body.Close()
	a := agent.Attempt{Code: res.StatusCode, After: retryAfter(res)}
	switch {
	case res.StatusCode >= 300 && res.StatusCode < 400:
		a.Error = fmt.Sprintf("Receiver answered %d; redirects are not followed", res.StatusCode)
	case res.StatusCode < 200 || res.StatusCode >= 300:
		a.Error = fmt.Sprintf("Receiver answered %d", res.StatusCode)
	}
	return a
}

// sign sets the headers of Standard Webhooks (OUT-4): one signature per secret.
func sign(h http.Header, id string, at time.Time, body []byte, secrets []agent.Secret) error {
	var signatures []string
	for _, secret := range secrets {
		w, err := standardwebhooks.NewWebhook(secret.Reveal())
		if err != nil {
			return err
		}
		one, err := w.Sign(id, at, body)
		if err != nil {
			return err
		}
		signatures = append(signatures, one)
	}
	h.Set(standardwebhooks.HeaderWebhookID, id)
	h.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	if len(signatures) > 0 { // an agent that has only callbacks may have no secret (OUT-5)
		h.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	}
	return nil
}

// place is the room of one receiver.
type place struct {
	sem   *semaphore.Weighted
	users int // that have it or wait for it
}

// enter waits for room, at the receiver first and then on this node, as long as an attempt may last.
func (s *Sender) enter(ctx context.Context, host string) (leave func(), ok bool) {
	s.mu.Lock()
	p := s.hosts[host]
	if p == nil {
		p = &place{sem: semaphore.NewWeighted(maxHost)}
		s.hosts[host] = p
	}
	p.users++
	s.mu.Unlock()
	gone := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if p.users--; p.users == 0 {
			delete(s.hosts, host)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, agent.AttemptTimeout)
	defer cancel()
	if p.sem.Acquire(ctx, 1) != nil {
		gone()
		return nil, false
	}
	if s.total.Acquire(ctx, 1) != nil {
		p.sem.Release(1)
		gone()
		return nil, false
	}
	return func() {
		s.total.Release(1)
		p.sem.Release(1)
		gone()
	}, true
}

// retryAfter reads the header of 429 and 503, in seconds or as a date (OUT-8).
func retryAfter(res *http.Response) time.Duration {
	if res.StatusCode != http.StatusTooManyRequests && res.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	v := res.Header.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}

// explain says what went wrong without addresses: the text is shown to the agent's owner.
func explain(err error) string {
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, egress.ErrRefused):
		return "The host leads to an address that is not allowed"
	case errors.Is(err, context.Canceled):
		return "The attempt was cut short"
	case errors.As(err, &dns):
		return "The host name could not be resolved"
	case errors.As(err, &cert):
		return "The receiver's certificate is not valid"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "The receiver does not speak TLS"
	}
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return "No complete answer within 10 seconds"
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return "The receiver could not be connected"
	}
	return "The connection to the receiver failed"
}
