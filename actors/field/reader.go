package field

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"troupe/actors/fault"
)

// Errors collects what is wrong with one document.
type Errors struct {
	found []found
	code  string // of the first fault that has a code of its own
}

type found struct {
	offset int64
	detail fault.Detail
}

// Add reports one member. Offset is its place in the document.
func (e *Errors) Add(offset int64, path, reason string) {
	e.found = append(e.found, found{offset, fault.Detail{Field: path, Reason: reason}})
}

// AddCode is Add for a fault that has a code of its own, such as reserved_env_name. It is used only if no fault is plain.
func (e *Errors) AddCode(offset int64, path, reason, code string) {
	if len(e.found) == 0 {
		e.code = code
	}
	e.Add(offset, path, reason)
}

// Err returns nil, or one fault.Invalid that names every offending member in document order (ERR-4).
func (e *Errors) Err() error {
	if len(e.found) == 0 {
		return nil
	}
	sort.SliceStable(e.found, func(i, j int) bool { return e.found[i].offset < e.found[j].offset })
	f := fault.New(fault.Invalid, "validation_failed", "")
	if e.code != "" && len(e.found) == 1 {
		f.Code = e.code
		if f.Code == "path_outside_workspace" { // FS-1
			f.Kind = fault.Forbidden
		}
	}
	for _, x := range e.found {
		f.Details = append(f.Details, x.detail)
	}
	f.Message = f.Details[0].Field + " " + f.Details[0].Reason
	if n := len(f.Details) - 1; n > 0 {
		f.Message += fmt.Sprintf(" (and %d more)", n)
	}
	return f
}

// Reader takes the members of one object out by name.
type Reader struct {
	obj  *Value
	path string
	errs *Errors
}

// Read starts reading v, which must be an object; anything else is reported at path.
func Read(v *Value, path string, errs *Errors) Reader {
	if v.Kind != Object {
		name := path
		if name == "" {
			name = "body"
		}
		errs.Add(v.Offset, name, "must be an object")
		return Reader{obj: &Value{Kind: Object, Offset: v.Offset}, path: path, errs: &Errors{}} // what follows from it is not told
	}
	return Reader{obj: v, path: path, errs: errs}
}

// Path returns the dotted path of the member name.
func (r Reader) Path(name string) string {
	if r.path == "" {
		return name
	}
	return r.path + "." + name
}

// Fail reports the member name.
func (r Reader) Fail(name, reason string) { r.errs.Add(r.offset(name), r.Path(name), reason) }

// FailCode reports the member name with a code of its own.
func (r Reader) FailCode(name, reason, code string) {
	r.errs.AddCode(r.offset(name), r.Path(name), reason, code)
}

func (r Reader) offset(name string) int64 {
	if v, ok := r.obj.Get(name); ok {
		return v.Offset
	}
	return r.obj.Offset
}

// Errors returns what this reader and its relatives collect into.
func (r Reader) Errors() *Errors { return r.errs }

// Has says whether the member is present, null included.
func (r Reader) Has(name string) bool { _, ok := r.obj.Get(name); return ok }

// Null says whether the member is present and null.
func (r Reader) Null(name string) bool { v, ok := r.obj.Get(name); return ok && v.Kind == Null }

// Raw returns the member as it stands.
func (r Reader) Raw(name string) (*Value, bool) { return r.obj.Get(name) }

// Names returns the names of the members in document order, each once.
func (r Reader) Names() []string {
	var out []string
	for _, m := range r.obj.Members {
		if !slices.Contains(out, m.Name) {
			out = append(out, m.Name)
		}
	}
	return out
}

// Only refuses every member that is not in known (ERR-5).
func (r Reader) Only(known ...string) {
	for _, n := range r.Names() {
		if !slices.Contains(known, n) {
			r.Fail(n, "is not known here")
		}
	}
}

// Require reports the members that are absent.
func (r Reader) Require(names ...string) {
	for _, n := range names {
		if !r.Has(n) {
			r.Fail(n, "is required")
		}
	}
}

func (r Reader) take(name string, want Kind, nullable bool) (*Value, bool) {
	v, ok := r.obj.Get(name)
	if !ok || v.Kind == Null && nullable {
		return nil, false
	}
	if v.Kind != want {
		r.Fail(name, "must be "+kindNames[want])
		return nil, false
	}
	return v, true
}

// Text is what a string member must look like. Lengths count code points; Max 0 means no upper bound.
type Text struct {
	Min, Max int
	Pattern  *regexp.Regexp
	Shape    string // what Pattern means, for people
	Enum     []string
	Nullable bool
	AllowNUL bool
}

// String returns a string member. ok is false when it is absent, null (where allowed) or refused.
func (r Reader) String(name string, t Text) (s string, ok bool) {
	v, ok := r.take(name, String, t.Nullable)
	if !ok {
		return "", false
	}
	if reason := t.Check(v.Text); reason != "" {
		r.Fail(name, reason)
		return "", false
	}
	return v.Text, true
}

// Check returns why s is refused, or "".
func (t Text) Check(s string) string {
	n := utf8.RuneCountInString(s)
	switch {
	case !t.AllowNUL && strings.ContainsRune(s, 0):
		return "must not contain NUL"
	case n < t.Min && t.Max > 0:
		return fmt.Sprintf("must have %d to %d characters", t.Min, t.Max)
	case n < t.Min:
		return fmt.Sprintf("must have at least %d characters", t.Min)
	case t.Max > 0 && n > t.Max:
		return fmt.Sprintf("must have at most %d characters", t.Max)
	case len(t.Enum) > 0 && !slices.Contains(t.Enum, s):
		return "must be one of " + strings.Join(t.Enum, ", ")
	case t.Pattern != nil && !t.Pattern.MatchString(s):
		if t.Shape != "" {
			return "must be " + t.Shape
		}
		return "must match " + t.Pattern.String()
	}
	return ""
}

// Int returns an integer member between lo and hi. A fraction or an exponent is refused (ERR-5).
func (r Reader) Int(name string, lo, hi int64, nullable bool) (n int64, ok bool) {
	v, ok := r.take(name, Number, nullable)
	if !ok {
		return 0, false
	}
	if strings.ContainsAny(v.Text, ".eE") {
		r.Fail(name, "must be an integer without fraction and exponent")
		return 0, false
	}
	n, err := strconv.ParseInt(v.Text, 10, 64)
	if err != nil || n < lo || n > hi {
		r.Fail(name, between(lo, hi))
		return 0, false
	}
	return n, true
}

func between(lo, hi int64) string {
	if hi == math.MaxInt64 {
		return fmt.Sprintf("must be at least %d", lo)
	}
	return fmt.Sprintf("must be between %d and %d", lo, hi)
}

// Bool returns a boolean member.
func (r Reader) Bool(name string) (b, ok bool) {
	v, ok := r.take(name, Bool, false)
	if !ok {
		return false, false
	}
	return v.Bool, true
}

// Object returns a reader of an object member; ok is false when it is absent, null (where allowed) or no object.
func (r Reader) Object(name string, nullable bool) (Reader, bool) {
	v, ok := r.take(name, Object, nullable)
	if !ok {
		return Reader{}, false
	}
	return Reader{obj: v, path: r.Path(name), errs: r.errs}, true
}

// Array returns the items of an array member, at most max of them.
func (r Reader) Array(name string, max int) ([]Value, bool) {
	v, ok := r.take(name, Array, false)
	if !ok {
		return nil, false
	}
	if len(v.Items) > max {
		r.Fail(name, fmt.Sprintf("must have at most %d entries", max))
		return nil, false
	}
	return v.Items, true
}

// Item returns a reader of entry i of the array member name.
func (r Reader) Item(name string, i int, v *Value) Reader {
	return Read(v, fmt.Sprintf("%s[%d]", r.Path(name), i), r.errs)
}
