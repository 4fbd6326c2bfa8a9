package agent

import "log/slog"

// Secret is a credential in clear. It prints as [redacted] everywhere; Reveal is the only way to its value.
type Secret struct{ value string }

// NewSecret wraps a credential.
func NewSecret(v string) Secret { return Secret{v} }

// Reveal returns the credential. Search for its callers to see who handles secrets.
func (s Secret) Reveal() string { return s.value }

// Empty says whether there is no credential.
func (s Secret) Empty() bool { return s.value == "" }

func (s Secret) String() string { return "[redacted]" }

// GoString keeps %#v from printing the value.
func (s Secret) GoString() string { return "[redacted]" }

// LogValue keeps slog from printing the value.
func (s Secret) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalText keeps encoders from writing the value.
func (s Secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }
