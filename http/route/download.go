package route

import (
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// slowest is what a reader of a response has to take, in bytes per second, besides writeWithin. One that takes less is given up, so
// that nobody can keep large responses in memory.
const slowest = 32 << 10

// Download is a response that streams a file to be saved under a name. The body is closed when it has ended, however it has.
func Download(name, mediaType string, size int64, body io.ReadCloser) Response {
	return Response{Status: 200, Stream: func(ctx *fasthttp.RequestCtx) {
		ctx.SetStatusCode(200)
		ctx.SetContentType(mediaType)
		ctx.Response.Header.Set("Content-Disposition", disposition(name))
		ctx.Response.Header.Set("X-Content-Type-Options", "nosniff")
		ctx.SetBodyStream(&paced{body, ctx.Conn()}, int(size))
	}}
}

// paced gives every part of a stream its own deadline.
type paced struct {
	io.ReadCloser
	conn net.Conn
}

// Read implements io.Reader. The deadline is for what is written before the next call.
func (p *paced) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	_ = p.conn.SetWriteDeadline(time.Now().Add(writeWithin))
	return n, err
}

// disposition names the file to save as, in a form that every browser reads (RFC 6266).
func disposition(name string) string {
	plain := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return '_'
		}
		return c
	}, name)
	var ext strings.Builder
	for _, b := range []byte(name) {
		if b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || strings.IndexByte("-._~", b) >= 0 {
			ext.WriteByte(b)
		} else {
			fmt.Fprintf(&ext, "%%%02X", b)
		}
	}
	return `attachment; filename="` + plain + `"; filename*=UTF-8''` + ext.String()
}
