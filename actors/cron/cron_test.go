package cron

import (
	"archive/zip"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := Zone(name)
	if err != nil {
		t.Fatal(name, err)
	}
	return z
}

func parse(t testing.TB, text string) *Expr {
	t.Helper()
	e, err := Parse(text)
	if err != nil {
		t.Fatal(text, err)
	}
	return e
}

func at(t testing.TB, text string) time.Time {
	t.Helper()
	x, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestSCHED_2_WhatIsRefused(t *testing.T) {
	for _, text := range []string{"", "* * * *", "* * * * * *", "@reboot", "@every 1h", "@DAILY", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 0 *", "* * * 13 *",
		"* * * * 8", "? * * * *", "* * L * *", "* * 15W * *", "* * * * 5#2", "5-1 * * * *", "* * * * SAT-SUN", "* * * * FRI-SUN", "*/0 * * * *", "1,,2 * * * *", ",1 * * * *", "1- * * * *",
		"-1 * * * *", "1/ * * * *", "*/60 * * * *", "TZ=UTC * * * * *", "CRON_TZ=Europe/Berlin", "1.5 * * * *", "+1 * * * *", "a * * * *", "JAN * * * *", "*-5 * * * *", "٣ * * * *", "1-2-3 * * * *", "*/1/2 * * * *"} {
		if _, err := Parse(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestSCHED_2_WhatIsTaken(t *testing.T) {
	from := at(t, "2026-03-09T10:30:00Z") // a Monday
	for text, want := range map[string]string{
		"* * * * *": "2026-03-09T10:31:00Z", "*/7 * * * *": "2026-03-09T10:35:00Z", "5/20 * * * *": "2026-03-09T10:45:00Z", "10-20/5,55 * * * *": "2026-03-09T10:55:00Z",
		"0 9 * * 1-5": "2026-03-10T09:00:00Z", "0 9 * * MON": "2026-03-16T09:00:00Z", "0 9 * * sun": "2026-03-15T09:00:00Z", "0 9 * * 7": "2026-03-15T09:00:00Z", "0 9 * * 5-7": "2026-03-13T09:00:00Z",
		"0 0 29 2 *": "2028-02-29T00:00:00Z", "0 0 1 jan-MAR *": "2027-01-01T00:00:00Z", "  0   0 1 4 * ": "2026-04-01T00:00:00Z",
		"@hourly": "2026-03-09T11:00:00Z", "@daily": "2026-03-10T00:00:00Z", "@midnight": "2026-03-10T00:00:00Z", "@weekly": "2026-03-15T00:00:00Z",
		"@monthly": "2026-04-01T00:00:00Z", "@yearly": "2027-01-01T00:00:00Z", "@annually": "2027-01-01T00:00:00Z",
		"0 0 31 2 *": "", "0 0 30 2 *": "", "0 0 31 4,6,9,11 *": ""} {
		got := parse(t, text).Next(from, time.UTC)
		if want == "" && got.IsZero() {
			continue
		}
		if got.Format(time.RFC3339) != want {
			t.Errorf("%q: %s, want %s", text, got.Format(time.RFC3339), want)
		}
	}
	if got := parse(t, "0 0 29 2 *").Next(at(t, "2096-03-01T00:00:00Z"), time.UTC); got.Format(time.DateOnly) != "2104-02-29" {
		t.Errorf("the leap day after 2096: %s", got)
	}
}

func TestSCHED_3_DayAndWeekday(t *testing.T) {
	from := at(t, "2026-11-01T00:00:00Z")
	for text, want := range map[string]string{"0 0 13 * 5": "2026-11-06", "0 0 13 * *": "2026-11-13", "0 0 * * 5": "2026-11-06", "0 0 */2 * 1": "2026-11-09", "0 0 13 * */5": "2026-11-13", "0 0 1-31 * 1": "2026-11-02"} {
		if got := parse(t, text).Next(from, time.UTC).Format(time.DateOnly); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestSCHED_4_Zones(t *testing.T) {
	for _, name := range []string{"UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+2"} {
		zone(t, name)
	}
	for _, name := range []string{"", "Local", "+02:00", "UTC+2", "Mars/Olympus", "../etc/passwd", "/etc/localtime", "posix/Europe/Berlin", "right/Europe/Berlin"} {
		if _, err := Zone(name); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
}

func TestSCHED_5_ChangesOfTheClock(t *testing.T) {
	for _, tt := range []struct{ text, zone, from, want string }{
		{"30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T03:00:00+02:00 2026-03-30T02:30:00+02:00"},
		{"0,15,30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T03:00:00+02:00 2026-03-30T02:00:00+02:00"},
		{"30 2-3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T03:00:00+02:00 2026-03-29T03:30:00+02:00"},
		{"30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T02:30:00+02:00 2026-10-26T02:30:00+01:00"},
		{"0 3 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T03:00:00+01:00 2026-10-26T03:00:00+01:00"},
		{"15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", "2026-10-04T02:30:00+11:00 2026-10-05T02:15:00+11:00"},
		{"0 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", "2026-09-06T01:00:00-03:00 2026-09-07T00:00:00-03:00"},
		{"*/30 * * * *", "America/New_York", "2026-11-01T05:20:00Z", "2026-11-01T01:30:00-04:00 2026-11-01T01:00:00-05:00 2026-11-01T01:30:00-05:00 2026-11-01T02:00:00-05:00"},
		{"30 0-23 * * *", "America/New_York", "2026-11-01T05:20:00Z", "2026-11-01T01:30:00-04:00 2026-11-01T01:30:00-05:00"},
		{"30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", "2026-03-29T01:30:00+01:00 2026-03-29T03:30:00+02:00"},
	} {
		z, x := zone(t, tt.zone), at(t, tt.from)
		var got []string
		for range strings.Fields(tt.want) {
			x = parse(t, tt.text).Next(x, z)
			got = append(got, x.In(z).Format(time.RFC3339))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%q in %s: %s\nwant %s", tt.text, tt.zone, strings.Join(got, " "), tt.want)
		}
	}
}

// oracle decides by the words of SCHED-5, one minute at a time, which instants of a span fire. It shares nothing with the code above but
// the sets of the fields.
func oracle(e *Expr, from, to time.Time, z *time.Location) (out []int64) {
	fits := func(w time.Time) bool {
		day, weekday := e.day>>w.Day()&1 == 1, e.weekday>>w.Weekday()&1 == 1
		ok := day && weekday
		if e.either {
			ok = day || weekday
		}
		return ok && e.month>>w.Month()&1 == 1 && e.hour>>w.Hour()&1 == 1 && e.minute>>w.Minute()&1 == 1
	}
	shown := func(u time.Time) time.Time { // as a count of minutes on the wall
		l := u.In(z)
		return time.Date(l.Year(), l.Month(), l.Day(), l.Hour(), l.Minute(), 0, 0, time.UTC)
	}
	furthest := shown(from.Add(-26 * time.Hour)) // the wall time that has been reached
	for u := from.Add(-26 * time.Hour); !u.After(to); u = u.Add(time.Minute) {
		w, fires := shown(u), false
		if e.hour == allHours {
			fires = fits(w)
		} else {
			for furthest.Before(w) {
				furthest = furthest.Add(time.Minute)
				fires = fires || fits(furthest)
			}
		}
		if fires && u.After(from) {
			out = append(out, u.Unix())
		}
	}
	return out
}

// zones are all that Go knows.
func zones(t *testing.T) (out []string) {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	r, err := zip.OpenReader(filepath.Join(strings.TrimSpace(string(root)), "lib", "time", "zoneinfo.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, f := range r.File {
		if !f.FileInfo().IsDir() {
			out = append(out, f.Name)
		}
	}
	if len(out) < 400 {
		t.Fatalf("only %d zones", len(out))
	}
	return out
}

// TestSCHED_5_AgainstAnOracle compares random expressions with the oracle around every change of the clock of 2020 to 2040 in every zone.
func TestSCHED_5_AgainstAnOracle(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 2040))
	pick := func(texts ...string) string { return texts[rnd.IntN(len(texts))] }
	minutes := []string{"0", "30", "15", "59", "0,15,30,45", "*/20", "*/30", "5-10", "1"}
	hours := []string{"*", "0", "1", "2", "3", "2,3", "0-3", "23", "1-23", "0-23", "*/2", "22-23"}
	days := []string{"*", "*", "*", "*/2", "1-15"}
	weekdays := []string{"*", "*", "*", "0", "SUN,MON", "1-6"}
	compared, slots := 0, 0
	seen := map[string]bool{} // many zones share their rules
	for _, name := range zones(t) {
		z, err := Zone(name)
		if err != nil {
			continue // posixrules and the like
		}
		end := time.Date(2040, 12, 31, 0, 0, 0, 0, time.UTC)
		for x := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC).In(z); ; {
			_, change := x.ZoneBounds()
			if change.IsZero() || change.After(end) {
				break
			}
			if !change.After(x) { // ZoneBounds on the last day of a leap year
				x = x.Add(24 * time.Hour)
				continue
			}
			_, before := change.Add(-time.Second).Zone()
			_, after := change.Zone()
			x = change
			key := change.Format(time.RFC3339) + time.Duration(before).String()
			if seen[key] && testing.Short() || seen[key] && before != after && rnd.IntN(8) > 0 {
				continue
			}
			seen[key] = true
			text := strings.Join([]string{pick(minutes...), pick(hours...), pick(days...), "*", pick(weekdays...)}, " ")
			e := parse(t, text)
			from, to := change.Add(-5*time.Hour).Truncate(time.Minute), change.Add(6*time.Hour).Truncate(time.Minute)
			var got []int64
			for u := e.Next(from, z); !u.IsZero() && !u.After(to); u = e.Next(u, z) {
				got = append(got, u.Unix())
			}
			want := oracle(e, from, to, z)
			if !slices.Equal(got, want) {
				t.Fatalf("%q in %s around %s:\n got %v\nwant %v", text, name, change.Format(time.RFC3339), stamps(got, z), stamps(want, z))
			}
			compared, slots = compared+1, slots+len(want)
		}
	}
	t.Logf("%d changes of the clock compared, %d slots", compared, slots)
}

func stamps(all []int64, z *time.Location) (out []string) {
	for _, x := range all {
		out = append(out, time.Unix(x, 0).In(z).Format(time.RFC3339))
	}
	return out
}

func TestSCHED_8_HowManyWereMissed(t *testing.T) {
	e := parse(t, "*/15 * * * *")
	newest, n, next := e.Between(at(t, "2026-03-09T10:00:00Z"), at(t, "2026-03-09T11:00:00Z"), time.UTC)
	if n != 4 || newest.Format(time.TimeOnly) != "11:00:00" || next.Format(time.TimeOnly) != "11:15:00" {
		t.Errorf("%d, the newest %s, then %s", n, newest, next)
	}
	newest, n, next = e.Between(at(t, "2026-03-09T10:00:00Z"), at(t, "2026-03-09T10:14:59Z"), time.UTC)
	if n != 0 || !newest.IsZero() || next.Format(time.TimeOnly) != "10:15:00" {
		t.Errorf("%d, the newest %s, then %s", n, newest, next)
	}
	_, n, next = parse(t, "* * * * *").Between(at(t, "2020-01-01T00:00:00Z"), at(t, "2030-01-01T00:00:00Z"), time.UTC)
	if n != most || next.Format(time.RFC3339) != "2030-01-01T00:01:00Z" {
		t.Errorf("%d, then %s", n, next)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"* * * * *", "0 9 * * 1-5", "@daily", "*/5,7 1-3/2 29 2 SUN", "5-1 * * * *"} {
		f.Add(s)
	}
	from := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
	z, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := Parse(text)
		if err != nil {
			return
		}
		if u := e.Next(from, z); !u.IsZero() && (!u.After(from) || u.Second() != 0) {
			t.Errorf("%q: %s", text, u)
		}
	})
}

func BenchmarkNext(b *testing.B) {
	z, e := zone(b, "Europe/Berlin"), parse(b, "0 9 * * 1-5")
	from := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
	b.ReportAllocs()
	for b.Loop() {
		e.Next(from, z)
	}
}
