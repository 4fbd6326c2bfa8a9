// Package field reads JSON documents member by member and reports everything that is wrong with them at once.
//
// Parse keeps what encoding/json throws away and the contract needs: the place of every member (faults are reported
// in document order, ERR-4), numbers as written ("5.0" is not an integer, ERR-5), and the difference between an
// absent member and null (CFG-3). Of duplicate keys the last one counts (GEN-5). A Reader then takes members out by
// name and kind; what it refuses is collected in Errors.
package field

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"troupe/actors/fault"
)

// Kind is the JSON type of a value.
type Kind int

// The JSON types.
const (
	Null Kind = iota + 1
	Bool
	Number
	String
	Array
	Object
)

var kindNames = map[Kind]string{Null: "null", Bool: "a boolean", Number: "a number", String: "a string", Array: "an array", Object: "an object"}

// MaxDepth bounds the nesting of a document, so that no document can exhaust the stack.
const MaxDepth = 100

// Value is one JSON value with its place in the document.
type Value struct {
	Kind    Kind
	Text    string // the string's content, or the number as written
	Bool    bool
	Items   []Value // of an array
	Members []Member
	Offset  int64 // where the value ends in the document
}

// Member is one name and value of an object, in document order.
type Member struct {
	Name  string
	Value Value
}

// Get returns the member called name; of duplicates the last.
func (v *Value) Get(name string) (*Value, bool) {
	for i := len(v.Members) - 1; i >= 0; i-- {
		if v.Members[i].Name == name {
			return &v.Members[i].Value, true
		}
	}
	return nil, false
}

// Parse reads exactly one JSON value. Errors: fault.Invalid with code invalid_json.
func Parse(doc []byte) (Value, error) {
	if !utf8.Valid(doc) {
		return Value{}, invalid("the body is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	v, err := parseValue(dec, 0)
	if err != nil {
		return Value{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Value{}, invalid("the body holds more than one JSON value")
	}
	return v, nil
}

func invalid(format string, args ...any) error {
	return fault.New(fault.Invalid, "invalid_json", "Invalid JSON: "+fmt.Sprintf(format, args...))
}

func parseValue(dec *json.Decoder, depth int) (Value, error) {
	tok, err := dec.Token()
	if err != nil {
		return Value{}, syntax(err, dec)
	}
	if depth > MaxDepth {
		return Value{}, invalid("nested deeper than %d levels", MaxDepth)
	}
	v := Value{}
	switch t := tok.(type) {
	case nil:
		v.Kind = Null
	case bool:
		v.Kind, v.Bool = Bool, t
	case json.Number:
		v.Kind, v.Text = Number, t.String()
	case string:
		v.Kind, v.Text = String, t
	case json.Delim:
		if err := parseNested(dec, depth, t, &v); err != nil {
			return Value{}, err
		}
	}
	v.Offset = dec.InputOffset()
	return v, nil
}

func parseNested(dec *json.Decoder, depth int, open json.Delim, v *Value) error {
	v.Kind = Array
	if open == '{' {
		v.Kind = Object
	}
	for dec.More() {
		var name string
		if v.Kind == Object {
			tok, err := dec.Token()
			if err != nil {
				return syntax(err, dec)
			}
			name, _ = tok.(string)
		}
		item, err := parseValue(dec, depth+1)
		if err != nil {
			return err
		}
		if v.Kind == Object {
			v.Members = append(v.Members, Member{Name: name, Value: item})
		} else {
			v.Items = append(v.Items, item)
		}
	}
	if _, err := dec.Token(); err != nil { // the closing bracket
		return syntax(err, dec)
	}
	return nil
}

func syntax(err error, dec *json.Decoder) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("unexpected end of the document")
	}
	text := strings.TrimPrefix(err.Error(), "json: ")
	return invalid("%s near byte %d", text, dec.InputOffset())
}

// JSON writes v back as compact JSON: numbers as written, of duplicate members the last, no HTML escapes.
func (v *Value) JSON() []byte {
	var b bytes.Buffer
	v.write(&b)
	return b.Bytes()
}

func (v *Value) write(b *bytes.Buffer) {
	switch v.Kind {
	case Bool:
		fmt.Fprintf(b, "%t", v.Bool)
	case Number:
		b.WriteString(v.Text)
	case String:
		writeString(b, v.Text)
	case Array:
		b.WriteByte('[')
		for i := range v.Items {
			if i > 0 {
				b.WriteByte(',')
			}
			v.Items[i].write(b)
		}
		b.WriteByte(']')
	case Object:
		b.WriteByte('{')
		n := 0
		for i := range v.Members {
			if last, _ := v.Get(v.Members[i].Name); last != &v.Members[i].Value {
				continue
			}
			if n > 0 {
				b.WriteByte(',')
			}
			n++
			writeString(b, v.Members[i].Name)
			b.WriteByte(':')
			v.Members[i].Value.write(b)
		}
		b.WriteByte('}')
	default:
		b.WriteString("null")
	}
}

func writeString(b *bytes.Buffer, s string) {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s)       // a string cannot fail to encode
	b.Truncate(b.Len() - 1) // the encoder's line break
}
