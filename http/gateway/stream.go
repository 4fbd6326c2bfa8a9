package gateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/valyala/fasthttp"

	"troupe/http/route"
)

const writeWithin = 60 * time.Second // a reader slower than this is given up

// stream relays server-sent events one by one. The charge is durable before the last event goes out (LLM-5); a stream
// that breaks is charged by what was seen (LLM-6).
func (k *call) stream(res *http.Response) route.Response {
	return route.Response{Status: 200, Stream: func(ctx *fasthttp.RequestCtx) {
		ctx.SetStatusCode(200)
		ctx.SetContentType("text/event-stream")
		ctx.Response.Header.Set("Cache-Control", "no-cache")
		for h, v := range relayHeaders(res.Header) {
			ctx.Response.Header.Set(h, v)
		}
		conn := ctx.Conn()
		ctx.SetBodyStreamWriter(func(w *bufio.Writer) {
			defer k.end()
			defer res.Body.Close()
			err := k.relay(bufio.NewReaderSize(res.Body, 64<<10), w, func() error {
				_ = conn.SetWriteDeadline(time.Now().Add(writeWithin))
				return w.Flush()
			})
			k.settle(err != nil)
		})
	}}
}

var errCut = errors.New("the stream ended before its last event")

// relay copies events. An event ends with an empty line; message_stop is the last one.
func (k *call) relay(r *bufio.Reader, w *bufio.Writer, flush func() error) error {
	var event bytes.Buffer
	for {
		line, err := r.ReadBytes('\n')
		event.Write(line)
		if err != nil {
			_, _ = w.Write(event.Bytes())
			_ = flush()
			if errors.Is(err, io.EOF) {
				return errCut
			}
			return err
		}
		if len(bytes.TrimRight(line, "\r\n")) > 0 {
			continue
		}
		last := k.look(event.Bytes())
		if last {
			k.settle(false)
		}
		if _, err := w.Write(event.Bytes()); err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
		if last {
			return nil
		}
		event.Reset()
	}
}

// look takes the usage out of an event and says whether it is the last.
func (k *call) look(event []byte) (last bool) {
	for _, line := range bytes.Split(event, []byte("\n")) {
		data, ok := bytes.CutPrefix(line, []byte("data:"))
		if !ok {
			continue
		}
		var e struct {
			Type    string `json:"type"`
			Message struct {
				Usage usage `json:"usage"`
			} `json:"message"`
			Usage json.RawMessage `json:"usage"`
			Delta struct {
				Text     string `json:"text"`
				Thinking string `json:"thinking"`
				JSON     string `json:"partial_json"`
			} `json:"delta"`
		}
		if json.Unmarshal(data, &e) != nil {
			continue
		}
		switch e.Type {
		case "message_start":
			k.usage = e.Message.Usage
		case "message_delta":
			if len(e.Usage) > 0 {
				_ = json.Unmarshal(e.Usage, &k.usage) // cumulative; members that are absent keep their value
				k.sofar.Store(k.usage.Output)
			}
		case "content_block_delta":
			k.runes += int64(utf8.RuneCountInString(e.Delta.Text) + utf8.RuneCountInString(e.Delta.Thinking) + utf8.RuneCountInString(e.Delta.JSON))
		case "message_stop":
			last = true
		}
	}
	return last
}
