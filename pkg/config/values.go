package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// hidden is printed in place of every secret.
const hidden = "<secret>"

// concealed makes a type that embeds it one that no form of printing shows, and that == does not
// compare.
type concealed struct{ _ [0]func() }

// String hides the value.
func (concealed) String() string { return hidden }

// Format hides the value from every verb of package fmt.
func (concealed) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hidden)) }

// MarshalText hides the value from JSON, YAML, XML and zap, also where it is the key of a map.
func (concealed) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// Secret is a value that no form of printing shows: it has to be asked for with Expose.
// The zero Secret means that none was given.
//
// Two Secrets are not comparable by ==: compare what Expose returns.
type Secret struct {
	concealed
	// Package fmt cannot call the methods of a value in an unexported field of some other
	// struct and prints what the value is made of. A pointer inside prints as an address.
	value *string
}

// NewSecret makes a Secret of a value that did not come from a configuration file.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{value: &value}
}

// Expose returns the secret itself. It belongs into a request, never into a log or an error.
func (s Secret) Expose() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsSet reports whether there is a secret.
func (s Secret) IsSet() bool { return s.value != nil }

// URL is the address of a webhook. Such addresses often hold a token in their path or query, so
// only scheme and host are ever printed.
type URL struct{ secret Secret }

// NewURL makes a URL of a value that did not come from a configuration file.
func NewURL(value string) URL { return URL{secret: NewSecret(value)} }

// Expose returns the whole address. It belongs into a request, never into a log or an error.
func (u URL) Expose() string { return u.secret.Expose() }

// IsSet reports whether there is an address.
func (u URL) IsSet() bool { return u.secret.IsSet() }

// String returns scheme and host, and "/..." for what else there is.
func (u URL) String() string {
	parsed, err := url.Parse(u.Expose())
	if err != nil || parsed.Host == "" {
		return hidden
	}
	s := parsed.Scheme + "://" + parsed.Host
	if strings.Trim(parsed.Path, "/") != "" || parsed.RawQuery != "" || parsed.Fragment != "" {
		s += "/..."
	}
	return s
}

// Format hides the same as String from every verb of package fmt.
func (u URL) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(u.String())) }

// MarshalText hides the same as String.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// signingKeyPrefix marks a secret of the Standard Webhooks specification. It is not part of the
// base64.
const signingKeyPrefix = "whsec_"

// SigningKeys returns the keys each request is signed with as the Standard Webhooks specification
// says (HMAC-SHA256); nil: requests are not signed.
func (w *Webhook) SigningKeys() [][]byte {
	var keys [][]byte
	for _, s := range w.SigningSecrets() {
		key, err := decodeSigningKey(s)
		if err != nil {
			return nil // not after Load, which refuses such a secret
		}
		keys = append(keys, key)
	}
	return keys
}

// SigningSecrets returns Secret, if it is set, and Secrets.
func (w *Webhook) SigningSecrets() []Secret {
	if !w.Secret.IsSet() {
		return w.Secrets
	}
	return append([]Secret{w.Secret}, w.Secrets...)
}

// recommendedKeyBytes is the least that the Standard Webhooks specification asks of a key.
const recommendedKeyBytes = 24

// decodeSigningKey returns the bytes a secret stands for: what follows whsec_ in base64. A secret
// without that prefix is base64 too, as the reference libraries take it, or, where it is not, used
// as it stands: some consumers give out plain text.
func decodeSigningKey(s Secret) ([]byte, error) {
	if strings.HasPrefix(s.Expose(), "v1,"+signingKeyPrefix) {
		return nil, fmt.Errorf(`begins with "v1,", which is no part of the secret: it begins with %s`, signingKeyPrefix)
	}
	text, prefixed := strings.CutPrefix(s.Expose(), signingKeyPrefix)
	key, err := base64.StdEncoding.DecodeString(text)
	switch {
	case err != nil && prefixed: // err names a place in the secret
		return nil, fmt.Errorf("begins with %s, so base64 must follow, and does not", signingKeyPrefix)
	case err != nil:
		key = []byte(text)
	}
	if len(key) == 0 {
		return nil, fmt.Errorf("holds nothing behind %s", signingKeyPrefix)
	}
	return key, nil
}

// Size is a number of bytes. In the file it may have a unit: 512MiB.
type Size int64

// sizeUnits are the units of a Size, the largest first.
var sizeUnits = []struct {
	name   string
	factor int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// String returns the size with the largest unit that divides it.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && int64(s)%u.factor == 0 {
			return strconv.FormatInt(int64(s)/u.factor, 10) + u.name
		}
	}
	return "0B"
}

// How sizes and durations are written.
var (
	errSize     = errors.New("must be a size such as 512MiB or 1GiB (units B, KiB, MiB, GiB, TiB)")
	errDuration = errors.New("must be a duration with its unit, such as 500ms, 30s, 24h or 7d")
	errNegative = errors.New("must not be negative")
)

// parseSize reads a whole number of bytes, or a number with a unit.
func parseSize(s string) (Size, error) {
	number, factor := s, int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			number, factor = strings.TrimRight(rest, " "), u.factor
			break
		}
	}
	if n, err := strconv.ParseUint(number, 10, 63); err == nil {
		if n > math.MaxInt64/uint64(factor) {
			return 0, errSize
		}
		return Size(n) * Size(factor), nil
	}
	// A fraction such as 1.5GiB; exact for every size a disk can have.
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || factor == 1 || strings.Trim(number, "0123456789.") != "" || f*float64(factor) >= 1<<53 {
		return 0, errSize
	}
	return Size(f * float64(factor)), nil
}

// parseDuration reads a duration as Go writes it, and with days and weeks as Prometheus does. A
// bare 0 needs no unit.
func parseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	if strings.HasPrefix(s, "-") {
		return 0, errNegative
	}
	var sum time.Duration
	for rest := s; rest != ""; {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789."))
		unit := strings.IndexAny(rest[digits:]+"0", "0123456789.")
		number, name := rest[:digits], rest[digits:digits+unit]
		factor := time.Duration(1)
		switch name {
		case "d":
			factor, name = 24, "h"
		case "w":
			factor, name = 7*24, "h"
		}
		d, err := time.ParseDuration(number + name)
		if err != nil || digits == 0 || d > (math.MaxInt64-sum)/factor {
			return 0, errDuration
		}
		sum += d * factor
		rest = rest[digits+unit:]
	}
	if s == "" {
		return 0, errDuration
	}
	return sum, nil
}

// LogStart says from when on the entries of a log are told that is followed for the first time:
// from now on ("now"), all that the HMC holds ("all"), or those since a time (RFC 3339) or for a
// duration before the start ("24h").
type LogStart string

// Start says where a new sink begins: behind what is stored ("latest"), with all of it
// ("earliest"), or with what was received for a duration before ("24h").
type Start string

// The words among these values.
const (
	LogStartNow   LogStart = "now"
	LogStartAll   LogStart = "all"
	StartLatest   Start    = "latest"
	StartEarliest Start    = "earliest"
)

func parseLogStart(s string) (LogStart, error) {
	l := LogStart(s)
	if _, err := time.Parse(time.RFC3339, s); err == nil || l == LogStartNow || l == LogStartAll || isPeriod(s) {
		return l, nil
	}
	return "", errors.New("must be now, all, a duration such as 24h or 7d, or a time such as 2026-11-01T00:00:00Z")
}

func parseStart(s string) (Start, error) {
	if begin := Start(s); begin == StartLatest || begin == StartEarliest || isPeriod(s) {
		return begin, nil
	}
	return "", errors.New("must be latest, earliest, or a duration such as 24h or 7d")
}

func isPeriod(s string) bool {
	d, err := parseDuration(s)
	return err == nil && d > 0
}

// Since returns the time that a LogStart means at a time; the zero time: all.
func (l LogStart) Since(now time.Time) time.Time {
	if l == LogStartAll {
		return time.Time{}
	}
	if at, err := time.Parse(time.RFC3339, string(l)); err == nil {
		return at
	}
	d, _ := parseDuration(string(l)) // of LogStartNow none
	return now.Add(-d)
}

// formatDuration writes a duration as people do: 24h, not 24h0m0s.
func formatDuration(d time.Duration) string {
	return strings.NewReplacer("h0m0s", "h", "m0s", "m").Replace(d.String())
}
