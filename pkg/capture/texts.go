package capture

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/secret"
)

const (
	// longNumber is how many digits a number has at least that may say whose it is.
	longNumber = 6
	// shortestName is the length of names whose words are looked for; what is shorter is in every
	// text.
	shortestName = 2
)

var (
	// wholes are what is replaced as a whole: ids, addresses of the web behind their scheme, and
	// what may be the address of a machine.
	wholes = regexp.MustCompile(`[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}|` +
		`[a-z][a-z0-9+]*://[^\s"'<>,}\]]+|` +
		`(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f.]{0,15}){2,8}`)
	// measure is a number with its unit, or a date and time.
	measure = regexp.MustCompile(`^(?:[0-9]+(?:ns|us|ms|s|m|h|d|B|KiB|MiB|GiB)|[0-9]{2}T[0-9]{2}|[0-9]+Z)$`)
)

// terms are words that tell of nobody, even where somebody has given such a name.
var terms = set(`hmc hmcs cpc partition lpar sink sinks host name file log webhook http https true false null`)

// Texts replaces what nobody is to see in texts of the program itself, the same word by the same
// one throughout. Everything is noted first, and then cleaned.
type Texts struct {
	words  *words
	hide   secret.Set
	public map[string]bool
	whole  map[string]string
}

// NewTexts makes Texts that hide secrets and keep words that are in one of the public texts, unless
// they are of a name.
func NewTexts(secrets []string, public ...string) *Texts {
	t := &Texts{
		words: newWords(), hide: secret.New(secrets...), public: make(map[string]bool), whole: make(map[string]string),
	}
	for _, text := range public {
		for text != "" {
			n := wordLength(text)
			if n > 0 {
				t.public[text[:n]] = true
			}
			text = text[max(n, 1):]
		}
	}
	return t
}

// Name notes a name. Its words are replaced wherever they are.
func (t *Texts) Name(name string) {
	for name != "" {
		n := wordLength(name)
		if word := name[:n]; n >= shortestName && !terms[strings.ToLower(word)] {
			t.words.replace(word, true, nil)
		}
		name = name[max(n, 1):]
	}
}

// Note notes a text that will be cleaned: no replacement will be one of its words.
func (t *Texts) Note(text string) { t.words.replace(text, false, nil) }

// Noted ends the noting.
func (t *Texts) Noted() { t.words.noting = false }

// Clean returns a text of the program without secrets, names, addresses and ids.
func (t *Texts) Clean(text string) string { return t.clean(text, t.keep) }

// Strange returns a text of somebody else with every word replaced.
func (t *Texts) Strange(text string) string { return t.clean(text, nil) }

// Replaced is how many words have been replaced.
func (t *Texts) Replaced() int { return len(t.words.made) + len(t.whole) }

func (t *Texts) clean(text string, keep func(string) bool) string {
	text = t.hide.Hide(text)
	var out strings.Builder
	from := 0
	for _, at := range wholes.FindAllStringIndex(text, -1) {
		made, ok := t.replaceWhole(text[at[0]:at[1]])
		if !ok {
			continue
		}
		out.WriteString(t.words.replace(text[from:at[0]], false, keep))
		out.WriteString(made)
		from = at[1]
	}
	out.WriteString(t.words.replace(text[from:], false, keep))
	return out.String()
}

// replaceWhole replaces what is no text; ok: it is none.
func (t *Texts) replaceWhole(s string) (made string, ok bool) {
	if scheme, rest, isURL := strings.Cut(s, "://"); isURL {
		return scheme + "://" + t.clean(rest, nil), true
	}
	kind := "id"
	if !strings.Contains(s, "-") {
		addr, err := netip.ParseAddr(s)
		if err != nil { // as in the address before a port
			addr, err = netip.ParseAddr(strings.TrimRight(s, ":."))
		}
		if err != nil {
			return "", false
		}
		if addr.IsLoopback() || addr.IsUnspecified() {
			return s, true
		}
		kind = "address"
	}
	if t.whole[s] == "" {
		t.whole[s] = fmt.Sprintf("<%s %d>", kind, len(t.whole)+1)
	}
	return t.whole[s], true
}

// keep says whether a word may stay that is not of a name.
func (t *Texts) keep(word string) bool {
	if strings.Trim(word, "0123456789") == "" {
		return len(word) < longNumber
	}
	return t.public[word] || t.public[strings.ToLower(word)] || measure.MatchString(word)
}
