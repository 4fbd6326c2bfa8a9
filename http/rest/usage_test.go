package rest

import (
	"testing"
	"time"
)

func TestLLM_8_PeriodsAreUTC(t *testing.T) {
	for _, c := range []struct {
		now               string
		week, month, days int
		first, last       string
	}{
		{"2026-11-25T10:00:00Z", 3, 25, 25, "2026-11-25", "2026-11-01"},      // a Wednesday
		{"2026-11-01T23:59:59Z", 7, 1, 7, "2026-11-01", "2026-10-26"},        // a Sunday
		{"2026-11-30T00:30:00+02:00", 7, 29, 29, "2026-11-29", "2026-11-01"}, // still Sunday the 29th, UTC
		{"2026-03-02T00:00:00Z", 1, 2, 2, "2026-03-02", "2026-03-01"},
	} {
		now, err := time.Parse(time.RFC3339, c.now)
		if err != nil {
			t.Fatal(err)
		}
		days, week, month := periods(now)
		if week != c.week || month != c.month || len(days) != c.days || days[0] != c.first || days[len(days)-1] != c.last {
			t.Errorf("%s: week %d, month %d, %d days from %s to %s", c.now, week, month, len(days), days[0], days[len(days)-1])
		}
	}
}
