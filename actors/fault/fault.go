// Package fault holds the kinds of failure that cross the rooms of troupe.
//
// A fault carries a kind (what a caller may branch on), a stable machine code and a sentence that are both safe to
// show, and a private cause that only the log sees. Whoever understands a failure classifies it once; everyone else
// passes it on or wraps it with fmt.Errorf and %w. An error without a fault in its chain is Internal.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Kind is what a failure means to the caller. Kinds start at one, so a forgotten one is noticed.
type Kind int

// The kinds. The HTTP status that belongs to each is written down once, in http/rest.
const (
	Internal        Kind = iota + 1 // a defect or an unclassified cause; its text is never shown
	Invalid                         // the request itself is wrong
	Unauthenticated                 // no or wrong credentials
	Forbidden                       // known caller, not allowed
	NotFound                        // no such object, or not the caller's
	Method                          // the path exists, the method does not
	Conflict                        // collides with the present state
	TooLarge                        // over a size limit
	MediaType                       // a body that is not declared as JSON
	Mismatch                        // an idempotency key with another body
	Limited                         // too many, too fast
	Exhausted                       // the token balance is used up
	Upstream                        // a service asked on the caller's behalf failed
	Unavailable                     // not now; try again
	Full                            // the agent's volume is full
	Fenced                          // the writer no longer owns what it writes (FENCE-2)
)

var names = map[Kind]string{
	Internal: "internal", Invalid: "invalid", Unauthenticated: "unauthenticated", Forbidden: "forbidden",
	NotFound: "not_found", Method: "method", Conflict: "conflict", TooLarge: "too_large", MediaType: "media_type",
	Mismatch: "mismatch", Limited: "limited", Exhausted: "exhausted", Upstream: "upstream", Unavailable: "unavailable",
	Full: "full", Fenced: "fenced",
}

// String returns the kind's name as used in logs and metric labels.
func (k Kind) String() string {
	if n, ok := names[k]; ok {
		return n
	}
	return "internal"
}

// Detail names one offending member and what it must be.
type Detail struct {
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// Error is a classified failure. Code and Message may be shown to the caller, the cause may not.
type Error struct {
	Kind    Kind
	Code    string // stable machine code of the contract, rule ERR-2
	Message string // a sentence for people
	Details []Detail
	Retry   time.Duration // how long to wait before trying again; 0: not said
	cause   error
}

// New makes a fault. Code is one of the contract's codes, message a sentence that is safe to show.
func New(kind Kind, code, message string) *Error {
	return &Error{Kind: kind, Code: code, Message: message}
}

// Newf is New with a formatted message.
func Newf(kind Kind, code, format string, args ...any) *Error {
	return New(kind, code, fmt.Sprintf(format, args...))
}

// Because returns a copy of e that carries cause for the log.
func (e *Error) Because(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// After returns a copy of e that asks the caller to wait for d.
func (e *Error) After(d time.Duration) *Error {
	c := *e
	c.Retry = d
	return &c
}

// At returns a copy of e that names the offending member.
func (e *Error) At(field, reason string) *Error {
	c := *e
	c.Details = append(append([]Detail(nil), e.Details...), Detail{Field: field, Reason: reason})
	return &c
}

func (e *Error) Error() string {
	if e.cause != nil {
		return e.Message + ": " + e.cause.Error()
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.cause }

// Of returns the fault in err's chain; an error without one is Internal with err as its cause. Of(nil) is nil.
func Of(err error) *Error {
	if err == nil {
		return nil
	}
	var f *Error
	if errors.As(err, &f) {
		return f
	}
	return New(Internal, "internal", "Internal server error").Because(err)
}

// Is says whether err is a fault of the given kind.
func Is(err error, kind Kind) bool {
	var f *Error
	return errors.As(err, &f) && f.Kind == kind
}

// Store says that the store did not confirm an operation: it may or may not have taken effect (ERR-6).
func Store(cause error) *Error {
	return New(Unavailable, "store_unavailable", "The store did not confirm the operation; repeat it with the same Idempotency-Key").
		After(time.Second).Because(cause)
}

// Lost says that the writer's claim is no longer the newest (FENCE-2).
func Lost(what string) *Error {
	return Newf(Fenced, "store_unavailable", "%s is owned by another activation", what).After(time.Second)
}
