package capture

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	random "math/rand/v2"
	"strings"
	"unicode/utf8"
)

const (
	// shortWord is the length of words that other words may be replaced by: there are so few of
	// them that it tells nothing.
	shortWord = 2
	// wordTries is how many replacements are tried that have no name in them, and after that how
	// many of a word's own length, before a longer one is taken.
	wordTries = 500
)

// words replaces words. A word is a run of letters and digits. The same one always has the same
// replacement, which has its length and the classes of its characters, no two have the same, and
// none has one that is a word of the original. The key is forgotten with it, so nothing leads back.
//
// All words are noted first, and then replaced.
type words struct {
	key     [32]byte
	noting  bool
	present map[string]bool   // the words there are
	names   map[string]bool   // the words of names, in lower case
	lengths map[int]bool      // of these
	made    map[string]string // the replacements
	used    map[string]bool   // of made
}

func newWords() *words {
	w := &words{
		noting: true, present: make(map[string]bool), names: make(map[string]bool), lengths: make(map[int]bool),
		made: make(map[string]string), used: make(map[string]bool),
	}
	_, _ = rand.Read(w.key[:]) // it never fails
	return w
}

// replace returns a text with each word replaced that keep does not keep. name says that the words
// are of a name: they are replaced wherever they are.
func (w *words) replace(text string, name bool, keep func(word string) bool) string {
	var out strings.Builder
	for text != "" {
		n := wordLength(text)
		if n == 0 {
			out.WriteByte(text[0]) // ASCII, and no letter or digit
			text = text[1:]
			continue
		}
		word := text[:n]
		text = text[n:]
		switch {
		case w.noting:
			w.note(word, name)
		case keep != nil && keep(word) && !w.names[strings.ToLower(word)]:
		default:
			word = w.replacement(word)
		}
		out.WriteString(word)
	}
	return out.String()
}

// wordLength is the length of the word that a text begins with.
func wordLength(text string) int {
	n := 0
	for n < len(text) && isWordByte(text[n]) {
		n++
	}
	return n
}

func isWordByte(c byte) bool {
	return c >= utf8.RuneSelf || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func (w *words) note(word string, name bool) {
	word = strings.Clone(word)
	w.present[word] = true
	if !name {
		return
	}
	lower := strings.ToLower(word)
	if w.names[lower] = true; len(lower) > shortWord {
		w.lengths[len(lower)] = true
	}
}

func (w *words) replacement(word string) string {
	if made, ok := w.made[word]; ok {
		return made
	}
	mac := hmac.New(sha256.New, w.key[:])
	mac.Write([]byte(word))
	var seed [32]byte
	mac.Sum(seed[:0])
	from := random.New(random.NewChaCha8(seed))
	made := word
	for tries := 0; made == word || w.used[made] || w.tells(made, tries < wordTries); tries++ {
		made = like(word, from)
		if tries > 2*wordTries { // they are all taken
			made += like(strings.Repeat("0", tries/wordTries), from)
		}
	}
	word = strings.Clone(word)
	w.made[word], w.used[made] = made, true
	return made
}

// tells says whether a replacement is a word of the original; strictly also whether one of a name
// is within.
func (w *words) tells(made string, strictly bool) bool {
	if len(made) <= shortWord {
		return false
	}
	if w.present[made] {
		return true
	}
	lower := strings.ToLower(made)
	for n := range w.lengths {
		for i := 0; strictly && i+n <= len(lower); i++ {
			if w.names[lower[i:i+n]] {
				return true
			}
		}
	}
	return false
}

// like makes a word of the same length and classes: digits, small and capital letters (of
// hexadecimal numbers, where it is one), and others by how many bytes they have.
func like(word string, from *random.Rand) string {
	letters := 26
	if isHex(word) {
		letters = 6
	}
	out := make([]byte, 0, len(word)+utf8.UTFMax)
	for word != "" {
		r, n := utf8.DecodeRuneInString(word)
		switch {
		case r == utf8.RuneError && n <= 1:
			out = append(out, byte(0x80+from.IntN(0x40)))
		case r >= '0' && r <= '9':
			out = append(out, byte('0'+from.IntN(10)))
		case r >= 'a' && r <= 'z':
			out = append(out, byte('a'+from.IntN(letters)))
		case r >= 'A' && r <= 'Z':
			out = append(out, byte('A'+from.IntN(letters)))
		case n == 2:
			out = utf8.AppendRune(out, 0xe0+rune(from.IntN(0x17)))
		case n == 3:
			out = utf8.AppendRune(out, 0x4e00+rune(from.IntN(0x2000)))
		default:
			out = utf8.AppendRune(out, 0x20000+rune(from.IntN(0x2000)))
		}
		word = word[n:]
	}
	return string(out)
}

// isHex says whether a word is a number in hexadecimal digits, as parts of object ids are.
func isHex(word string) bool {
	const shortest = 4
	return len(word) >= shortest && strings.Trim(word, "0123456789abcdef") == "" ||
		len(word) >= shortest && strings.Trim(word, "0123456789ABCDEF") == ""
}
