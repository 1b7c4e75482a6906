package config

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/secret"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/units"
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

// SigningKeys returns the keys each request is signed with as the Standard Webhooks specification
// says (HMAC-SHA256); nil: requests are not signed.
func (w *Webhook) SigningKeys() [][]byte {
	var keys [][]byte
	for _, s := range w.SigningSecrets() {
		key, err := secret.SigningKey(s.Expose())
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

// Size is a number of bytes. In the file it may have a unit: 512MiB.
type Size = units.Size

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
	d, err := units.ParseDuration(s)
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
	d, _ := units.ParseDuration(string(l)) // of LogStartNow none
	return now.Add(-d)
}
