package redisstore

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// parseURL reads redis[s]://[user:password@]host[:port][/db][?addr=host:port…][&cluster=true][&master_name=name].
func parseURL(raw string) (*redis.UniversalOptions, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "redis" && u.Scheme != "rediss" {
		return nil, fmt.Errorf("store address must be redis://host:port or rediss://host:port")
	}
	o := &redis.UniversalOptions{Addrs: []string{withPort(u.Host)}}
	if u.User != nil {
		o.Username = u.User.Username()
		o.Password, _ = u.User.Password()
	}
	if u.Scheme == "rediss" {
		o.TLSConfig = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	}
	if db := strings.Trim(u.Path, "/"); db != "" {
		if o.DB, err = strconv.Atoi(db); err != nil {
			return nil, fmt.Errorf("store address: database %q is not a number", db)
		}
	}
	for name, values := range u.Query() {
		switch name {
		case "addr":
			for _, a := range values {
				o.Addrs = append(o.Addrs, withPort(a))
			}
		case "cluster":
			o.IsClusterMode = values[0] == "true" || values[0] == "1"
		case "master_name":
			o.MasterName = values[0]
		case "sentinel_password":
			o.SentinelPassword = values[0]
		default:
			return nil, fmt.Errorf("store address: unknown option %q", name)
		}
	}
	if len(o.Addrs) > 1 && o.MasterName == "" {
		o.IsClusterMode = true
	}
	return o, nil
}

func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), "6379")
}
