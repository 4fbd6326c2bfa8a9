package route

import (
	"bufio"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// Times of event streams (EVT-5).
const (
	StreamPing  = 15 * time.Second // between comment lines
	writeWithin = 30 * time.Second // a reader slower than this is given up
)

// Events writes server-sent events. Errors of the single writes show at Flush.
type Events struct {
	w     *bufio.Writer
	flush func() error
	gone  chan struct{}
}

// Gone is closed when the reader has closed the connection.
func (e *Events) Gone() <-chan struct{} { return e.gone }

// Send writes one event. Data must be a single line.
func (e *Events) Send(id, event string, data []byte) {
	_, _ = e.w.WriteString("id: " + id + "\nevent: " + event + "\ndata: ")
	_, _ = e.w.Write(data)
	_, _ = e.w.WriteString("\n\n")
}

// SendSeq is Send with a number as position.
func (e *Events) SendSeq(seq int64, event string, data []byte) {
	e.Send(strconv.FormatInt(seq, 10), event, data)
}

// Ping writes a comment line and flushes.
func (e *Events) Ping() error {
	_, _ = e.w.WriteString(": ping\n\n")
	return e.Flush()
}

// Flush sends what was written. Its error means that the reader is gone or too slow.
func (e *Events) Flush() error { return e.flush() }

// Stream is a response of server-sent events: run writes them until it returns, on a goroutine of the connection.
// Everything it uses must outlive the handler.
func Stream(run func(*Events)) Response {
	return Response{Status: 200, Stream: func(ctx *fasthttp.RequestCtx) {
		ctx.SetStatusCode(200)
		ctx.SetContentType("text/event-stream")
		ctx.Response.Header.Set("Cache-Control", "no-cache")
		ctx.Response.Header.Set("X-Accel-Buffering", "no")
		ctx.SetConnectionClose() // nothing but its end is read from the connection any more
		conn := ctx.Conn()       // ctx dies with the handler
		ctx.SetBodyStreamWriter(func(w *bufio.Writer) {
			e := &Events{w: w, gone: make(chan struct{}), flush: func() error {
				_ = conn.SetWriteDeadline(time.Now().Add(writeWithin))
				return w.Flush()
			}}
			go func() { // ends with the connection, which the server closes after the stream
				defer close(e.gone)
				_ = conn.SetReadDeadline(time.Time{})
				_, _ = conn.Read(make([]byte, 1))
			}()
			run(e)
		})
	}}
}
