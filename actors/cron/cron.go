// Package cron knows five-field cron expressions and when their slots are in a time zone (SCHED-2 to SCHED-5).
//
// An expression whose hour field leaves out some hour speaks of the wall clock: each of its slots fires once, at the first instant at
// which the clock in the zone has reached it. So slots inside a gap fire together at the end of the gap, and those of a repeated hour
// in its first pass. One that matches every hour speaks of elapsed time: it fires whenever the clock shows a match.
package cron

import (
	"errors"
	"fmt"
	"math/bits"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Expr is a parsed expression: one bit per value of each field.
type Expr struct {
	minute, hour, day, month, weekday uint64
	either                            bool // day and weekday are both restricted: one that matches is enough (SCHED-3)
}

// field is one of the five.
type field struct {
	name   string
	lo, hi int
	names  []string // of lo, lo+1, ...
}

var fields = [5]field{
	{name: "minute", lo: 0, hi: 59},
	{name: "hour", lo: 0, hi: 23},
	{name: "day", lo: 1, hi: 31},
	{name: "month", lo: 1, hi: 12, names: []string{"JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"}},
	{name: "weekday", lo: 0, hi: 7, names: []string{"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"}},
}

var shorthands = map[string]string{"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
	"@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"}

const allHours = 1<<24 - 1

// Parse reads an expression. The error says what is wrong, for people.
func Parse(text string) (*Expr, error) {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "@") {
		long, ok := shorthands[text]
		if !ok {
			return nil, errors.New("must be five fields, or one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually")
		}
		text = long
	}
	parts := strings.Fields(text)
	if len(parts) != 5 {
		return nil, fmt.Errorf("must have five fields, not %d: minute, hour, day, month, weekday", len(parts))
	}
	var sets [5]uint64
	for i, p := range parts {
		var err error
		if sets[i], err = fields[i].set(p); err != nil {
			return nil, err
		}
	}
	e := &Expr{minute: sets[0], hour: sets[1], day: sets[2], month: sets[3], weekday: sets[4], either: parts[2][0] != '*' && parts[4][0] != '*'}
	if e.weekday&(1<<7) != 0 { // 7 is Sunday too
		e.weekday = e.weekday&^(1<<7) | 1
	}
	return e, nil
}

// set reads one field: a list of *, a, a-b, each with an optional step.
func (f *field) set(text string) (set uint64, err error) {
	for _, item := range strings.Split(text, ",") {
		span, stepText, stepped := strings.Cut(item, "/")
		step := 1
		if stepped {
			if step, err = number(stepText); err != nil || step == 0 || step > f.hi {
				return 0, fmt.Errorf("%s: the step of %q must be a number from 1 to %d", f.name, item, f.hi)
			}
		}
		lo, hi := f.lo, f.hi
		if f.name == "weekday" {
			hi = 6 // * is each day once
		}
		if span != "*" {
			from, to, ranged := strings.Cut(span, "-")
			if lo, err = f.value(from); err != nil {
				return 0, err
			}
			switch {
			case ranged:
				if hi, err = f.value(to); err != nil {
					return 0, err
				}
				if hi < lo {
					return 0, fmt.Errorf("%s: the range %q runs backwards", f.name, span)
				}
			case !stepped:
				hi = lo
			}
		}
		for v := lo; v <= hi; v += step {
			set |= 1 << v
		}
	}
	return set, nil
}

func (f *field) value(text string) (int, error) {
	for i, n := range f.names {
		if strings.EqualFold(text, n) {
			return f.lo + i, nil
		}
	}
	v, err := number(text)
	if err != nil || v < f.lo || v > f.hi {
		return 0, fmt.Errorf("%s: %q must be from %d to %d", f.name, text, f.lo, f.hi)
	}
	return v, nil
}

// number reads digits and nothing else.
func number(text string) (int, error) {
	if text == "" || len(text) > 4 || strings.Trim(text, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.Atoi(text)
}

// horizon is how far ahead a slot is looked for; the longest pause is that of a leap day around 2100.
const horizon = 9

// Next is the first slot after an instant; zero if there is none within nine years.
func (e *Expr) Next(after time.Time, zone *time.Location) time.Time {
	if e.hour == allHours {
		return e.nextElapsed(after, zone)
	}
	// A slot whose wall time is before that of `after` may still lie ahead, where the clock has jumped back.
	for w := e.wall(naive(after, zone).Add(-lookBack)); !w.IsZero(); w = e.wall(w) {
		if u := reached(w, zone); u.After(after) {
			return u
		}
	}
	return time.Time{}
}

// lookBack is more than any clock was ever set back.
const lookBack = 26 * time.Hour

// nextElapsed walks through the spans between changes of the clock; within one, wall time runs like elapsed time.
func (e *Expr) nextElapsed(after time.Time, zone *time.Location) time.Time {
	for at, limit := after, after.AddDate(horizon, 0, 0); at.Before(limit); {
		end, offset := span(at, zone)
		w := e.wall(naive(at, zone))
		if w.IsZero() {
			return time.Time{}
		}
		if u := w.Add(-offset); end.IsZero() || u.Before(end) {
			return u
		}
		if e.matches(naive(end, zone)) { // the first instant of the clock that begins there
			return end
		}
		at = end
	}
	return time.Time{}
}

// naive is what the clock in the zone shows at an instant, as a time in UTC.
func naive(t time.Time, zone *time.Location) time.Time {
	l := t.In(zone)
	return time.Date(l.Year(), l.Month(), l.Day(), l.Hour(), l.Minute(), l.Second(), l.Nanosecond(), time.UTC)
}

// reached is the first instant at which the clock in the zone shows w or later.
func reached(w time.Time, zone *time.Location) time.Time {
	for at := w.Add(-lookBack); ; {
		end, offset := span(at, zone)
		u := w.Add(-offset)
		switch {
		case u.Before(at): // it lies in the gap before this span
			return at
		case end.IsZero() || u.Before(end):
			return u
		}
		at = end
	}
}

// span is the offset of a zone at an instant, and until when it holds at least; zero: for ever.
func span(at time.Time, zone *time.Location) (end time.Time, offset time.Duration) {
	local := at.In(zone)
	_, seconds := local.Zone()
	_, end = local.ZoneBounds()
	if !end.IsZero() && !end.After(at) { // ZoneBounds is wrong on the last day of a leap year, when nothing ever changes
		end = at.Add(time.Hour)
	}
	return end.UTC(), time.Duration(seconds) * time.Second
}

// matches says whether a wall time, which has no seconds, is a slot.
func (e *Expr) matches(w time.Time) bool {
	return w.Second() == 0 && w.Nanosecond() == 0 && e.minute&(1<<w.Minute()) != 0 && e.hour&(1<<w.Hour()) != 0 && e.onDay(w)
}

func (e *Expr) onDay(w time.Time) bool {
	if e.month&(1<<int(w.Month())) == 0 {
		return false
	}
	day, weekday := e.day&(1<<w.Day()) != 0, e.weekday&(1<<int(w.Weekday())) != 0
	if e.either {
		return day || weekday
	}
	return day && weekday
}

// wall is the first slot after a wall time, on the wall clock alone; zero if there is none within nine years.
func (e *Expr) wall(after time.Time) time.Time {
	at := after.Truncate(time.Minute).Add(time.Minute)
	for limit := after.AddDate(horizon, 0, 0); at.Before(limit); {
		year, month, day := at.Date()
		if e.month&(1<<int(month)) == 0 {
			at = time.Date(year, month+1, 1, 0, 0, 0, 0, time.UTC)
			continue
		}
		if e.onDay(at) {
			if h, m, ok := e.within(at.Hour(), at.Minute()); ok {
				return time.Date(year, month, day, h, m, 0, 0, time.UTC)
			}
		}
		at = time.Date(year, month, day+1, 0, 0, 0, 0, time.UTC)
	}
	return time.Time{}
}

// within is the first slot of a day at or after a time of it.
func (e *Expr) within(hour, minute int) (h, m int, ok bool) {
	if e.hour&(1<<hour) != 0 {
		if rest := e.minute >> minute; rest != 0 {
			return hour, minute + bits.TrailingZeros64(rest), true
		}
	}
	rest := e.hour >> (hour + 1)
	if rest == 0 {
		return 0, 0, false
	}
	return hour + 1 + bits.TrailingZeros64(rest), bits.TrailingZeros64(e.minute), true
}

// Between counts the slots after one instant and not after another. It returns the newest of them, and the first that is later than all.
func (e *Expr) Between(after, until time.Time, zone *time.Location) (newest time.Time, n int, next time.Time) {
	for next = e.Next(after, zone); !next.IsZero() && !next.After(until); next = e.Next(next, zone) {
		if n == most {
			return newest, n, e.Next(until, zone)
		}
		newest, n = next, n+1
	}
	return newest, n, next
}

// most bounds what is counted one by one: a slot a minute for two years.
const most = 1 << 20

// located are those that were asked for, by name: reading one costs as much as the rest of a slot. A process knows the rules it began with.
var located sync.Map

// Zone finds a time zone by its IANA name (SCHED-4). The error says what is wrong, for people.
func Zone(name string) (*time.Location, error) {
	if name == "" || name == "Local" || strings.HasPrefix(name, "posix") || strings.HasPrefix(name, "right/") {
		return nil, errors.New("must be an IANA time zone such as Europe/Berlin")
	}
	if known, ok := located.Load(name); ok {
		return known.(*time.Location), nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, errors.New("must be an IANA time zone such as Europe/Berlin")
	}
	if path.Clean(name) == name { // some six hundred; a name of other spelling is a file as well
		located.Store(name, zone)
	}
	return zone, nil
}
