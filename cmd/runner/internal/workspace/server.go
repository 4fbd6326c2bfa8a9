package workspace

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"troupe/http/runnerproto"
)

// maxChange bounds the body of one change: 4 MiB of request as base64 in JSON, with room.
const maxChange = 64 << 20

// Server is the file server of one runner. Only the control plane knows the key.
type Server struct {
	w   *Workspace
	key [32]byte
	l   net.Listener
	srv *http.Server
}

// Serve starts the file server on addr, for example 127.0.0.1:0.
func Serve(w *Workspace, addr, key string) (*Server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Server{w: w, key: sha256.Sum256([]byte(key)), l: l}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/files/apply", s.apply)
	mux.HandleFunc("GET /v1/files/usage", func(rw http.ResponseWriter, _ *http.Request) { answer(rw, 200, w.Usage()) })
	mux.HandleFunc("POST /v1/files/call", s.call)
	mux.HandleFunc("GET /v1/files/raw", s.raw)
	s.srv = &http.Server{Handler: s.guard(mux), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.srv.Serve(l) }() // ends with Close
	return s, nil
}

// Endpoint is where the control plane reaches the server.
func (s *Server) Endpoint() string { return "http://" + s.l.Addr().String() }

// Close ends the server.
func (s *Server) Close() error { return s.srv.Close() }

func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		got := sha256.Sum256([]byte(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")))
		if subtle.ConstantTimeCompare(got[:], s.key[:]) != 1 {
			answer(rw, 401, &Refusal{Code: "invalid_token", Text: "Invalid or expired token"})
			return
		}
		next.ServeHTTP(rw, r)
	})
}

func (s *Server) apply(rw http.ResponseWriter, r *http.Request) {
	var c runnerproto.FileChange
	if err := json.NewDecoder(http.MaxBytesReader(rw, r.Body, maxChange)).Decode(&c); err != nil || c.ID == "" {
		answer(rw, 400, &Refusal{Code: "invalid_json", Text: "Invalid file change"})
		return
	}
	err := s.w.Apply(c)
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		answer(rw, refusal.Status, refusal)
	case err != nil:
		answer(rw, 500, &Refusal{Code: "internal", Text: "Internal server error"})
	default:
		answer(rw, 200, s.w.Usage())
	}
}

// call runs one operation of the filesystem API.
func (s *Server) call(rw http.ResponseWriter, r *http.Request) {
	var c runnerproto.FileCall
	if err := json.NewDecoder(http.MaxBytesReader(rw, r.Body, maxChange)).Decode(&c); err != nil {
		answer(rw, 400, &Refusal{Code: "invalid_json", Text: "Invalid call"})
		return
	}
	out, err := s.w.Call(r.Context(), &c)
	if err != nil {
		refusal(rw, err)
		return
	}
	answer(rw, 200, out)
}

// raw streams a file as it is.
func (s *Server) raw(rw http.ResponseWriter, r *http.Request) {
	p := r.URL.Query().Get("path")
	f, st, err := s.w.open(p)
	if err != nil {
		refusal(rw, err)
		return
	}
	defer f.Close()
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		refusal(rw, err)
		return
	}
	rw.Header().Set("Content-Type", mediaType(p, head[:n]))
	rw.Header().Set("Content-Length", strconv.FormatInt(st.Size(), 10))
	_, _ = io.Copy(rw, io.LimitReader(f, st.Size())) // a file that became shorter breaks the connection, which tells the reader
}

func refusal(rw http.ResponseWriter, err error) {
	var refusal *Refusal
	if errors.As(refuse(err), &refusal) {
		answer(rw, refusal.Status, refusal)
		return
	}
	answer(rw, 500, &Refusal{Code: "internal", Text: "Internal server error"})
}

func answer(rw http.ResponseWriter, status int, v any) {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	enc := json.NewEncoder(rw)
	enc.SetEscapeHTML(false) // it is handed on as it is (GEN-5)
	_ = enc.Encode(v)        // a caller that is gone cannot be told
}
