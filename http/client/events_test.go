package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
)

// A stream goes on over a node that says nothing before it dies, and one that is busy; each event is seen once.
func TestEVT_3_AStreamGoesOnWhereItBroke(t *testing.T) {
	var after []string
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		after = append(after, r.Header.Get("Last-Event-ID"))
		if len(after) == 2 {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, ": ping\n\n")
		if len(after) > 2 {
			fmt.Fprintf(w, "id: %d\nevent: turn.started\ndata: {}\n\n", len(after))
		}
	}))
	defer web.Close()
	var seen []string
	err := New(web.URL, "key").Events(t.Context(), "/events", "1", func(e Event) bool {
		seen = append(seen, e.ID)
		return len(seen) < 2
	})
	if err != nil || !slices.Equal(seen, []string{"3", "4"}) || !slices.Equal(after, []string{"1", "1", "1", "3"}) {
		t.Errorf("saw %v, asked after %v: %v", seen, after, err)
	}
}

func TestEventsEndWithARefusalOrTheCaller(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }))
	defer web.Close()
	var refusal *Error
	if err := New(web.URL, "key").Events(t.Context(), "/events", "", nil); !errors.As(err, &refusal) || refusal.Status != 404 {
		t.Error(err)
	}
	if err := New("http://127.0.0.1:1", "key").Events(t.Context(), "/events", "", nil); err == nil {
		t.Error("the first connection failed, and nobody was told")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := New(web.URL, "key").Events(ctx, "/events", "", nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
