package agent

import (
	"strings"

	"github.com/google/uuid"
)

// Bare UUIDs of the things that have one. On the wire message ids carry the prefix "msg_" (GEN-2).
type (
	ID        string // of an agent
	MessageID string
	SessionID string
	TurnID    string
)

// Prefixes that ids carry on the wire.
const (
	PrefixMessage = "msg_"
	PrefixAgent   = "agt_"
	PrefixTask    = "tsk_"
)

// NewUUID returns a fresh UUIDv7. It shows its creation time, so it is no secret.
func NewUUID() string { return uuid.Must(uuid.NewV7()).String() }

// String returns the id as it appears in "id" and "*_id" members.
func (m MessageID) String() string { return PrefixMessage + string(m) }

// ParseID reads an agent id, with or without "agt_". ok is false for anything malformed, which is answered like an unknown id.
func ParseID(s string) (ID, bool) {
	u, ok := ParseUUID(s, PrefixAgent)
	return ID(u), ok
}

// ParseMessageID reads a message id, with or without "msg_" or "tsk_".
func ParseMessageID(s string) (MessageID, bool) {
	u, ok := ParseUUID(s, PrefixMessage, PrefixTask)
	return MessageID(u), ok
}

// ParseUUID reads a UUID in its canonical form, in any case and with at most one of the prefixes, and returns it bare and in lower case.
func ParseUUID(s string, prefixes ...string) (string, bool) {
	for _, p := range prefixes {
		if rest, ok := strings.CutPrefix(s, p); ok {
			s = rest
			break
		}
	}
	if len(s) != 36 {
		return "", false
	}
	u, err := uuid.Parse(s)
	if err != nil {
		return "", false
	}
	return u.String(), true
}
