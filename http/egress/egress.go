// Package egress makes the HTTP client that may call addresses chosen by users: the address is checked after the name
// was resolved and is the one connected to, so no name can be rebound into the private network (OUT-9).
package egress

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"code.dny.dev/ssrf"

	"troupe/actors/agent"
)

// ErrRefused is in the chain of the error when an address was refused.
var ErrRefused = ssrf.ErrProhibitedIP

// Client returns a guarded client. Redirects are not followed. What s.AllowHosts names, an address, a host or host:port, is let through.
func Client(s agent.Settings, timeout time.Duration) *http.Client {
	var opts []ssrf.Option
	opts = append(opts, ssrf.WithAnyPort())
	guard := ssrf.New(opts...)
	control := func(network, address string, c syscall.RawConn) error {
		if ap, err := netip.ParseAddrPort(address); err == nil && slices.Contains(s.AllowHosts, ap.Addr().String()) {
			return nil
		}
		return guard.Safe(network, address, c)
	}
	guarded, plain := &net.Dialer{Timeout: 10 * time.Second, Control: control}, &net.Dialer{Timeout: 10 * time.Second}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, _, err := net.SplitHostPort(address); err == nil && (slices.Contains(s.AllowHosts, strings.ToLower(host)) || slices.Contains(s.AllowHosts, address)) {
			return plain.DialContext(ctx, network, address)
		}
		return guarded.DialContext(ctx, network, address)
	}
	return &http.Client{Timeout: timeout, Transport: &http.Transport{DialContext: dial, Proxy: nil, TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}
