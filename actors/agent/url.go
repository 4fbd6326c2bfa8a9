package agent

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// CheckURL returns why an outbound URL is refused at save time, or "" (OUT-9): syntax, scheme, user info and literal
// addresses. Names are checked again when they are resolved, at connect time.
func CheckURL(raw string, s Settings) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Hostname() == "" || strings.ContainsAny(raw, " \t\r\n") {
		return "must be an absolute URL"
	}
	host := strings.ToLower(u.Hostname())
	if slices.Contains(s.AllowHosts, host) || slices.Contains(s.AllowHosts, u.Host) {
		if u.Scheme == "http" || u.Scheme == "https" {
			return ""
		}
	}
	switch {
	case u.Scheme != "https" && (u.Scheme != "http" || !s.AllowHTTP):
		return "must use https"
	case u.User != nil:
		return "must not carry user information"
	case host == "localhost" || strings.HasSuffix(host, ".localhost"):
		return "must not point into the private network"
	}
	if numeric.MatchString(host) { // 2130706433, 127.1, 0x7f.1: other spellings of literal addresses
		if _, err := netip.ParseAddr(host); err != nil {
			return "must name a host or a plain address"
		}
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return "must have a port between 1 and 65535"
		}
	}
	addr, err := netip.ParseAddr(host)
	if err == nil && !Public(addr) {
		return "must not point into the private network"
	}
	return ""
}

// numeric is a host whose last label is a number in any notation, which resolvers read as an address.
var numeric = regexp.MustCompile(`(^|\.)(0[xX][0-9a-fA-F]*|[0-9]+)\.?$`)

// reserved are the ranges that are no public unicast addresses and that netip does not name.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("2001:db8::/32"),
}

// Public says whether addr is a public unicast address.
func Public(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if !addr.IsGlobalUnicast() || addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() {
		return false
	}
	return !slices.ContainsFunc(reserved, func(p netip.Prefix) bool { return p.Contains(addr) })
}
