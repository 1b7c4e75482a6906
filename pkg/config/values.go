package config

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// hidden is printed in place of every secret.
const hidden = "<secret>"

// Secret is a value that no form of printing shows: it has to be asked for with Expose.
// The zero Secret means that none was given.
type Secret struct{ value string }

// NewSecret makes a Secret of a value that did not come from a configuration file.
func NewSecret(value string) Secret { return Secret{value: value} }

// Expose returns the secret itself. It belongs into a request, never into a log or an error.
func (s Secret) Expose() string { return s.value }

// IsSet reports whether there is a secret.
func (s Secret) IsSet() bool { return s.value != "" }

// String hides the secret.
func (s Secret) String() string { return hidden }

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return hidden }

// Format hides the secret from every verb of package fmt.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hidden)) }

// MarshalText hides the secret, also where it is the key of a map, and from zap and encoding/xml.
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalJSON hides the secret.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// MarshalYAML hides the secret.
func (s Secret) MarshalYAML() (any, error) { return hidden, nil }

// URL is the address of a webhook. Such addresses often hold a token in their path or query, so only scheme and
// host are ever printed.
type URL struct{ value string }

// NewURL makes a URL of a value that did not come from a configuration file.
func NewURL(value string) URL { return URL{value: value} }

// Expose returns the whole address. It belongs into a request, never into a log or an error.
func (u URL) Expose() string { return u.value }

// String returns scheme and host, and "/..." for what else there is.
func (u URL) String() string {
	parsed, err := url.Parse(u.value)
	if err != nil || parsed.Host == "" {
		return hidden
	}
	s := parsed.Scheme + "://" + parsed.Host
	if strings.Trim(parsed.Path, "/") != "" || parsed.RawQuery != "" || parsed.Fragment != "" {
		s += "/..."
	}
	return s
}

// GoString hides the same as String from %#v.
func (u URL) GoString() string { return u.String() }

// Format hides the same as String from every verb of package fmt.
func (u URL) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(u.String())) }

// MarshalText hides the same as String.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// MarshalJSON hides the same as String.
func (u URL) MarshalJSON() ([]byte, error) { return []byte(strconv.Quote(u.String())), nil }

// MarshalYAML hides the same as String.
func (u URL) MarshalYAML() (any, error) { return u.String(), nil }

// signingKeyPrefix marks a secret of the Standard Webhooks specification. It is not part of the base64.
const signingKeyPrefix = "whsec_"

// SigningKeys returns the keys each request is signed with as the Standard Webhooks specification says (HMAC-SHA256);
// nil: requests are not signed.
func (w *Webhook) SigningKeys() [][]byte {
	if !w.Secret.IsSet() {
		return nil
	}
	key, err := decodeSigningKey(w.Secret)
	if err != nil {
		return nil // not after Load, which refuses such a secret
	}
	return [][]byte{key}
}

func decodeSigningKey(s Secret) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s.value, signingKeyPrefix))
	if err != nil {
		return nil, fmt.Errorf("is not %s followed by base64", signingKeyPrefix) // err names bytes of the secret
	}
	return key, nil
}

// Size is a number of bytes. In the file it may have a unit: 512MiB.
type Size int64

// sizeUnits are the units of a Size, the largest first.
var sizeUnits = []struct {
	name   string
	factor int64
}{
	{"TiB", 1 << 40},
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"kB", 1e3},
	{"B", 1},
}

// String returns the size with the largest binary unit that divides it.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && int64(s)%u.factor == 0 && strings.HasSuffix(u.name, "iB") {
			return strconv.FormatInt(int64(s)/u.factor, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Pattern is a regular expression (RE2) that must match the whole value, as in Prometheus. Without special characters it
// is an exact value. The zero Pattern matches only the empty value.
type Pattern struct {
	source string
	re     *regexp.Regexp // nil: source is a literal
}

// NewPattern compiles an anchored regular expression.
func NewPattern(source string) (Pattern, error) {
	p := Pattern{source: source}
	if regexp.QuoteMeta(source) == source {
		return p, nil
	}
	// Compiled alone first: an error then shows what was written, and "a)(b" cannot break out of the anchors.
	if _, err := regexp.Compile(source); err != nil {
		return Pattern{}, err
	}
	re, err := regexp.Compile("^(?s:" + source + ")$")
	if err != nil {
		return Pattern{}, err
	}
	p.re = re
	return p, nil
}

// Match reports whether the whole of s matches.
func (p Pattern) Match(s string) bool {
	if p.re == nil {
		return p.source == s
	}
	return p.re.MatchString(s)
}

// String returns the pattern as it was written.
func (p Pattern) String() string { return p.source }

// MarshalText returns the pattern as it was written.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.source), nil }

// Patterns is a list of alternatives. In the file a single one may stand without the brackets.
type Patterns []Pattern

// IsSet reports whether there is anything to match.
func (p Patterns) IsSet() bool { return len(p) > 0 }

// Match reports whether any pattern matches the whole of s.
func (p Patterns) Match(s string) bool {
	for i := range p {
		if p[i].Match(s) {
			return true
		}
	}
	return false
}

// Search is a list of alternative regular expressions (RE2) that may match anywhere in a text. In the file a single one
// may stand without the brackets.
type Search []*regexp.Regexp

// IsSet reports whether there is anything to look for.
func (s Search) IsSet() bool { return len(s) > 0 }

// Match reports whether any of the expressions is found in text.
func (s Search) Match(text string) bool {
	for _, re := range s {
		if re.MatchString(text) {
			return true
		}
	}
	return false
}
