package channels

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// dialTimeout is how long a connection to a network may take to be there.
const dialTimeout = 5 * time.Second

// Transport tells a request that never left from one of which nobody knows: the error of the former is an *Error with Later.
type Transport struct{ next http.RoundTripper }

// NewTransport returns a transport for adapters.
func NewTransport() *Transport {
	d := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	return &Transport{&http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: d.DialContext, TLSHandshakeTimeout: dialTimeout, ForceAttemptHTTP2: true, MaxIdleConns: 256,
		MaxIdleConnsPerHost: 32, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 64 << 10}}
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	var left atomic.Bool
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{WroteHeaders: func() { left.Store(true) }})
	res, err := t.next.RoundTrip(r.WithContext(ctx))
	if err != nil && !left.Load() {
		if r.Context().Err() == context.Canceled {
			return nil, context.Canceled
		}
		return nil, &Error{Fate: Later, Why: "the network cannot be reached"}
	}
	return res, err
}
