package config

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"

	promconfig "github.com/prometheus/common/config"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
)

// Equal reports whether both HMCs are configured alike, down to what their files hold.
func (h *HMC) Equal(o *HMC) bool { return equal(h, o) }

// Equal reports whether both sinks are configured alike, down to what their files hold.
func (s *Sink) Equal(o *Sink) bool { return equal(s, o) }

// Equal reports whether both say the same of where and how events are stored.
func (s *Storage) Equal(o *Storage) bool { return equal(s, o) }

func equal[T any](a, b *T) bool {
	fa, sa := canonical(reflect.ValueOf(a).Elem())
	fb, sb := canonical(reflect.ValueOf(b).Elem())
	return bytes.Equal(fa, fb) && bytes.Equal(sa, sb)
}

// Hash identifies the content of the configuration, the files it names included. It has 48 bits, so
// that the value of a metric holds it exactly, and stays the same over restarts and machines.
func (c *Config) Hash() uint64 {
	fields, secrets := canonical(reflect.ValueOf(c).Elem())
	sum := sha256.Sum256(fields)
	// The number is public. Whoever knows the rest of the file could try passwords until it
	// fits, so each try costs.
	const iterations = 100_000
	key, err := pbkdf2.Key(sha256.New, string(secrets), sum[:], iterations, len(sum))
	if err != nil {
		// only where a FIPS module refuses; then the number does not depend on the secrets
		key = sum[:]
	}
	return binary.BigEndian.Uint64(key) >> 16
}

// canonical returns a form of v that is equal exactly for equal values, and the secrets apart from
// it.
func canonical(v reflect.Value) (fields, secrets []byte) {
	c := &canon{}
	c.value(v)
	return c.fields, c.secrets
}

type canon struct{ fields, secrets []byte }

// appendText appends s with its length before it, so that two texts never read like one.
func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (c *canon) value(v reflect.Value) {
	switch x := v.Interface().(type) {
	case interface{ Expose() string }: // a Secret or URL
		c.secrets = appendText(c.secrets, x.Expose())
		return
	case match.Pattern, *regexp.Regexp:
		c.fields = appendText(c.fields, fmt.Sprint(x))
		return
	case HTTPConfig:
		// Whole: it has secrets in all kinds of places.
		inner, client := &canon{}, x.Client()
		inner.value(reflect.ValueOf(&client).Elem())
		for _, part := range []string{string(inner.fields), string(inner.secrets), x.files.Expose()} {
			c.secrets = appendText(c.secrets, part)
		}
		return
	case promconfig.URL:
		if x.URL == nil {
			x.URL = new(url.URL) // which is written as nothing
		}
		c.secrets = appendText(c.secrets, x.String())
		return
	case TLS:
		c.fields = appendText(c.fields, x.ca)
	case NATSLogon:
		c.secrets = appendText(c.secrets, x.keys.Expose())
	case Syslog:
		c.fields = fmt.Appendf(c.fields, "%#v", x.LogMessages)
	case SyslogTLS:
		c.fields = appendText(c.fields, x.cert)
		c.secrets = appendText(c.secrets, x.key.Expose())
	}
	switch v.Kind() {
	case reflect.Struct:
		for f, field := range v.Fields() {
			if key := keyOf(f); key != "" || isInline(f) || v.Type() == reflect.TypeFor[promconfig.Headers]() {
				c.fields = appendText(c.fields, key)
				c.value(field)
			}
		}
	case reflect.Map:
		c.fields = binary.AppendUvarint(c.fields, uint64(v.Len()))
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			c.fields = appendText(c.fields, key.String())
			c.value(v.MapIndex(key))
		}
	case reflect.Slice:
		c.fields = binary.AppendUvarint(c.fields, uint64(v.Len()))
		for i := range v.Len() {
			c.value(v.Index(i))
		}
	case reflect.Pointer:
		if v.IsNil() {
			c.fields = append(c.fields, 0)
		} else {
			c.fields = append(c.fields, 1)
			c.value(v.Elem())
		}
	case reflect.String:
		c.fields = appendText(c.fields, v.String())
	default: // numbers and booleans
		c.fields = fmt.Appendf(c.fields, "%v;", v.Interface())
	}
}
