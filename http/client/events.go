package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Event is one event of an agent's stream (semantics.md §27).
type Event struct {
	ID   string // position to go on from
	Type string
	Data json.RawMessage
}

const (
	silence      = 60 * time.Second // the server pings more often
	reconnect    = 500 * time.Millisecond
	maxReconnect = 10 * time.Second
)

var (
	errEnough = errors.New("enough") // of it was read
	errSilent = errors.New("the server stopped talking")
)

// Events follows a stream until ctx ends or handle returns false. A connection that breaks is made anew from the last position,
// so that handle sees each event once. A failure of the first connection ends it with an error, and so does any refusal but a busy
// server's.
func (c *Client) Events(ctx context.Context, path, after string, handle func(Event) bool) error {
	seen := false
	opened := func() { seen = true }
	for pause := reconnect; ; pause = min(2*pause, maxReconnect) {
		err := c.stream(ctx, path, after, opened, func(e Event) bool {
			pause = reconnect
			if e.ID != "" {
				after = e.ID
			}
			return handle(e)
		})
		var refusal *Error
		switch {
		case errors.Is(err, errEnough):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &refusal) && refusal.Status < 500 && refusal.Status != http.StatusTooManyRequests, !seen:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func (c *Client) stream(ctx context.Context, path, after string, opened func(), handle func(Event) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, "GET", c.Base+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.Key)
	req.Header.Set("Accept", "text/event-stream")
	if after != "" {
		req.Header.Set("Last-Event-ID", after)
	}
	res, err := c.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(res.Body, 1<<16))
		e := &Error{Status: res.StatusCode}
		if json.Unmarshal(b, e) != nil || e.Code == "" {
			e.Code, e.Message = "unknown", fmt.Sprintf("the server answered %d", res.StatusCode)
		}
		return e
	}
	watchdog := time.AfterFunc(silence, func() { cancel(errSilent) }) // a server that stops talking is given up
	defer watchdog.Stop()
	opened()
	rd := bufio.NewReaderSize(res.Body, 1<<16)
	var e Event
	for {
		line, err := rd.ReadString('\n')
		if errors.Is(context.Cause(ctx), errSilent) {
			return errSilent
		}
		if err != nil {
			return err
		}
		watchdog.Reset(silence)
		name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			e.ID = value
		case "event":
			e.Type = value
		case "data":
			e.Data = append(e.Data, value...)
		case "": // a blank line ends an event; a comment begins with a colon
			if e.Data == nil || line[0] == ':' {
				continue
			}
			if !handle(e) {
				return errEnough
			}
			e = Event{}
		}
	}
}
