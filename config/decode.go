package config

import (
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// ByteSize is a number of bytes.
type ByteSize int64

// Units of ByteSize.
const (
	Byte ByteSize = 1
	KiB           = 1024 * Byte
	MiB           = 1024 * KiB
	GiB           = 1024 * MiB
)

// byteUnits is ordered for String: the largest that divides the value wins.
func byteUnits() []byteUnit {
	return []byteUnit{
		{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
		{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1},
	}
}

type byteUnit struct {
	name string
	size int64
}

// String writes s so that ParseByteSize reads the same value back.
func (s ByteSize) String() string {
	for _, u := range byteUnits()[:4] { // powers of 1024 only: they are what the defaults are written in
		if s != 0 && int64(s)%u.size == 0 {
			return strconv.FormatInt(int64(s)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// ParseByteSize reads a whole number with a unit: B, kB, MB, GB, TB (powers of
// 1000) or KiB, MiB, GiB, TiB (powers of 1024). A bare number is refused, because
// nobody can tell which unit its author had in mind; 0 is 0 in all of them.
func ParseByteSize(text string) (ByteSize, error) {
	if text == "0" {
		return 0, nil
	}
	digits := strings.TrimRight(text, "BKMGTkmgti")
	n, err := strconv.ParseInt(strings.TrimSuffix(digits, " "), 10, 64)
	if err != nil || n < 0 {
		return 0, errByteSize
	}
	for _, u := range byteUnits() {
		if text[len(digits):] == u.name {
			if n > math.MaxInt64/u.size {
				return 0, errByteSize
			}
			return ByteSize(n * u.size), nil
		}
	}
	return 0, errByteSize
}

// Secret is a value that is never written down: it comes from the environment
// alone, and prints as [secret] whatever the verb.
type Secret string

const redacted = "[secret]"

// Reveal returns the value itself.
func (s Secret) Reveal() string { return string(s) }

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format keeps every verb, %#v and %x included, from showing the value.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// MarshalText keeps encoders from showing the value.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// ReadSecret returns the secret of a pair of keys: the value from the environment
// where there is one, or what the file holds without the line end that editors put
// at its end. It returns nil where both are empty.
func ReadSecret(fromEnvironment Secret, file string) ([]byte, error) {
	if fromEnvironment != "" {
		return []byte(fromEnvironment), nil
	}
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return []byte(strings.TrimRight(string(b), "\r\n")), nil
}

// The rules of single values. Their text stands after the key in a finding.
var (
	errString   = errors.New("must be text; put it in quotes")
	errOneLine  = errors.New("must be one line of UTF-8 text without control characters")
	errBool     = errors.New("must be true or false")
	errInt      = errors.New("must be a whole number")
	errDuration = errors.New("must be a duration with a unit: write a unit, as in 5s, 10m or 24h")
	errByteSize = errors.New("must be a size with a unit: write a unit, as in 512KiB, 1MiB or 100B")
	errList     = errors.New("must be a list")
	errEmpty    = errors.New(`has no value: write "" for none, or leave the key out for its default`)
)

// decodeValue puts a value of a file, as YAML, TOML or JSON typed it, into dst.
// Types are not converted into each other: a bare 5 that becomes 5 nanoseconds, or
// a key ID 12345E6789 that becomes a number, is found here and nowhere later.
func decodeValue(raw any, dst reflect.Value) error {
	if raw == nil {
		return errEmpty
	}
	switch dst.Interface().(type) {
	case time.Duration:
		switch raw := raw.(type) {
		case string:
			return decodeText(raw, dst)
		default:
			if n, ok := wholeNumber(raw); ok && n == 0 {
				dst.SetInt(0)
				return nil
			}
			return errDuration
		}
	case ByteSize:
		switch raw := raw.(type) {
		case string:
			return decodeText(raw, dst)
		default:
			if n, ok := wholeNumber(raw); ok && n == 0 {
				dst.SetInt(0)
				return nil
			}
			return errByteSize
		}
	}
	switch dst.Kind() {
	case reflect.Slice: // within an entry of a list
		list, ok := raw.([]any)
		if !ok {
			return errList
		}
		out := reflect.MakeSlice(dst.Type(), len(list), len(list))
		for i := range list {
			if err := decodeValue(list[i], out.Index(i)); err != nil {
				return err
			}
		}
		dst.Set(out)
	case reflect.String:
		s, ok := raw.(string)
		if !ok {
			return errString
		}
		return decodeText(s, dst)
	case reflect.Bool:
		b, ok := raw.(bool)
		if !ok {
			return errBool
		}
		dst.SetBool(b)
	case reflect.Int:
		n, ok := wholeNumber(raw)
		if !ok {
			return errInt
		}
		dst.SetInt(n)
	default:
		panic("config: no decoder for " + dst.Type().String())
	}
	return nil
}

// decodeText puts a value of a flag or a variable, which is all text, into dst.
func decodeText(text string, dst reflect.Value) error {
	switch dst.Interface().(type) {
	case time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return errDuration
		}
		dst.SetInt(int64(d))
		return nil
	case ByteSize:
		n, err := ParseByteSize(text)
		if err != nil {
			return err
		}
		dst.SetInt(int64(n))
		return nil
	}
	switch dst.Kind() {
	case reflect.String:
		// A PEM key in a variable has lines; nothing else may, because names and
		// paths end up in log lines.
		if !utf8.ValidString(text) || dst.Type() != reflect.TypeFor[Secret]() && strings.ContainsFunc(text, unicode.IsControl) {
			return errOneLine
		}
		dst.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return errBool
		}
		dst.SetBool(b)
	case reflect.Int:
		n, err := strconv.ParseInt(text, 10, strconv.IntSize)
		if err != nil {
			return errInt
		}
		dst.SetInt(n)
	default:
		panic("config: no decoder for " + dst.Type().String())
	}
	return nil
}

// wholeNumber knows the number types of the three formats.
func wholeNumber(raw any) (int64, bool) {
	switch n := raw.(type) {
	case int:
		return int64(n), true
	case int64:
		return n, true
	case float64: // JSON has no other; beyond 2^53 it no longer says which number was meant
		if n == math.Trunc(n) && math.Abs(n) <= 1<<53 {
			return int64(n), true
		}
	}
	return 0, false
}

// showRaw writes a value of a file for a finding.
func showRaw(raw any) (string, bool) {
	switch v := raw.(type) {
	case nil:
		return "", false
	case string:
		return v, true
	case map[string]any, map[any]any:
		return "{...}", true
	case []any:
		return "[...]", true
	default:
		return fmt.Sprint(v), true
	}
}
