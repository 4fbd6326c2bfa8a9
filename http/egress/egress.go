// Package egress makes the HTTP client that may call addresses chosen by users: the address is checked after the name
// was resolved and is the one connected to, so no name can be rebound into the private network (OUT-9).
package egress

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"code.dny.dev/ssrf"

	"troupe/actors/agent"
)

// Client returns a guarded client. Redirects are not followed. Hosts of s.AllowHosts are let through when they are literal addresses.
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
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: control}
	return &http.Client{Timeout: timeout, Transport: &http.Transport{DialContext: dialer.DialContext, Proxy: nil, TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}
