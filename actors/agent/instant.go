package agent

import "time"

// stampLayout prints instants as the contract wants them: RFC 3339, milliseconds, UTC.
const stampLayout = "2006-01-02T15:04:05.000Z"

// Stamp prints an instant in milliseconds since 1970.
func Stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format(stampLayout) }

// StampOrNil is Stamp, or nil for zero.
func StampOrNil(ms int64) *string {
	if ms == 0 {
		return nil
	}
	s := Stamp(ms)
	return &s
}
