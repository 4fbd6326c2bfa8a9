package seal

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"
)

// handshake says whether the two sides accept each other.
func handshake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = c.Write([]byte("x")) // a client whose certificate is refused learns it with the first byte
			_ = c.Close()
		}
		done <- err
	}()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", l.Addr().String(), client)
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	return errors.Join(err, <-done)
}

func TestOnlyNodesOfTheInstallationTalkToEachOther(t *testing.T) {
	box := func() *Box {
		key, err := ParseKey(NewKey())
		if err != nil {
			t.Fatal(err)
		}
		b, err := New(key)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	configs := func(b *Box) (*tls.Config, *tls.Config) {
		s, c, err := b.NodeTLS()
		if err != nil {
			t.Fatal(err)
		}
		return s, c
	}
	ours := box()
	server, client := configs(ours)
	_, again := configs(ours) // another process with the same master key
	strangeServer, stranger := configs(box())
	if err := handshake(t, server, client); err != nil {
		t.Errorf("a node and itself: %v", err)
	}
	if err := handshake(t, server, again); err != nil {
		t.Errorf("two nodes of one installation: %v", err)
	}
	if err := handshake(t, server, stranger); err == nil {
		t.Error("a client of another installation was let in")
	}
	if err := handshake(t, strangeServer, client); err == nil {
		t.Error("a server of another installation was believed")
	}
	anonymous := client.Clone()
	anonymous.Certificates = nil
	if err := handshake(t, server, anonymous); err == nil {
		t.Error("a client without a certificate was let in")
	}
}
