package sinks

import (
	"encoding/json"
	"html"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// minHidden is the length from which on a part of a URL is hidden. Hiding every "1" would
	// leave no text.
	minHidden = 4
	// minHiddenSegment is the same for the parts of a path, most of which are words.
	minHiddenSegment = 8

	// maxExcerptRead is how much of an answer an excerpt is made of.
	maxExcerptRead = 4 << 10
	// maxExcerpt is how many bytes of an answer go into an error.
	maxExcerpt = 200
	// maxErrorText is how long the text of a library's error may be: some quote their peer.
	maxErrorText = 500

	hidden = "<secret>"
)

// redactor takes out of other people's text what must not be seen: error pages like to quote the
// address they were asked for, and the addresses of webhooks hold tokens.
type redactor struct {
	replacer *strings.Replacer
	// values are the texts that it replaces, the longest first.
	values []string
	// longest is the length of the longest text it replaces.
	longest int
}

func newRedactor(u *url.URL, secrets ...string) *redactor {
	values := slices.Clone(secrets)
	values = append(values, u.String(), u.RequestURI(), u.Path, u.EscapedPath(), u.RawQuery)
	for _, list := range u.Query() {
		values = append(values, list...)
	}
	values = slices.DeleteFunc(values, func(v string) bool { return len(v) < minHidden })
	for segment := range strings.SplitSeq(u.Path, "/") {
		if len(segment) >= minHiddenSegment {
			values = append(values, segment)
		}
	}

	// The same in the clothes it may be quoted in.
	for _, v := range slices.Clone(values) {
		quoted, _ := json.Marshal(v) // cannot fail for a string
		values = append(values,
			url.QueryEscape(v), url.PathEscape(v), html.EscapeString(v), string(quoted[1:len(quoted)-1]))
	}
	// The longest first: it wins.
	slices.SortFunc(values, func(a, b string) int { return len(b) - len(a) })

	r := &redactor{values: values}
	pairs := make([]string, 0, 2*len(values))
	for _, v := range values {
		r.longest = max(r.longest, len(v))
		pairs = append(pairs, v, hidden)
	}
	r.replacer = strings.NewReplacer(pairs...)
	return r
}

// error returns err with nothing hidden in its text: err itself where there was nothing to hide.
func (r *redactor) error(err error) error {
	text := err.Error()
	clean := r.replacer.Replace(text)
	if clean == text && len(text) <= maxErrorText {
		return err
	}
	// The reason is kept, but not the cause, which shows everything.
	reason, _ := ReasonOf(err)
	return because(reason, "%s", printable(clean, maxErrorText))
}

// excerpt returns the beginning of data, of which there are at most maxExcerptRead bytes, as one
// line of printable text. cut says that there would be more of it.
func (r *redactor) excerpt(data []byte, cut bool) string {
	text := r.replacer.Replace(string(data))
	switch { // a secret may have been cut in two
	case len(data) >= maxExcerptRead:
		text = text[:max(0, len(text)-r.longest)]
	case cut:
		text = r.withoutEnd(text)
	}
	return printable(text, maxExcerpt)
}

// withoutEnd hides the beginning of a secret with which a text ends.
func (r *redactor) withoutEnd(text string) string {
	begins := 0
	for _, v := range r.values {
		for n := min(len(v), len(text)); n > begins && n >= minHidden; n-- {
			if strings.HasSuffix(text, v[:n]) {
				begins = n
			}
		}
	}
	if begins == 0 {
		return text
	}
	return text[:len(text)-begins] + hidden
}

// printable returns s as one line of printable text of at most limit bytes, and "..." if that is
// not all.
func printable(s string, limit int) string {
	words := strings.FieldsFunc(s, func(c rune) bool {
		return c == utf8.RuneError || !unicode.IsPrint(c) || c == ' '
	})
	return event.Cut(strings.Join(words, " "), limit-1+len("..."))
}
