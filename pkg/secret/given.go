package secret

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
	runes "unicode"
)

// placeholder is what a shell, a template engine or a tool that encrypts files would have put
// something else for.
var placeholder = regexp.MustCompile(`^(\$\{.*\}|\$\(.*\)|\{\{.*\}\}|<%.*%>|<[A-Za-z_ -]+>|ENC\[.*\]|` +
	`\$ANSIBLE_VAULT;.*|age-encryption\.org/.*|op://.*|` +
	`\$[A-Z][A-Z0-9_]{3,}|%[A-Z][A-Z0-9_]{3,}%|@[A-Z][A-Z0-9_]{3,}@)$`)

// IsPlaceholder says whether what is given as a secret stands for one, and is none itself.
func IsPlaceholder(text string) bool { return placeholder.MatchString(text) }

// HasPlaceholder says whether an address, which has no braces, holds something else for which a
// secret was to be put in.
func HasPlaceholder(address string) bool {
	return strings.Contains(address, "${") || strings.Contains(address, "{{")
}

// Doubt returns why a text is hardly meant as it is, and what to do; "": nothing speaks against it.
func Doubt(text string) string {
	switch {
	case text != strings.TrimSpace(text):
		return "begins or ends with a blank, which is taken as a part of it: remove it if it is none"
	case strings.ContainsFunc(text, func(r rune) bool { return runes.Is(runes.Cf, r) }):
		return "holds a character that nobody can see, such as a zero-width space: type it anew if that is not meant"
	case len(text) > 2 && text[0] == text[len(text)-1] && strings.ContainsRune("\"'`", rune(text[0])):
		return "stands in quotes, which are taken as a part of it: remove them if they are none"
	}
	return ""
}

// SchemeIn returns why a text cannot follow the scheme in a header of authorization; "": it can.
func SchemeIn(text, scheme string) string {
	if before := scheme + " "; len(text) >= len(before) && strings.EqualFold(text[:len(before)], before) {
		return fmt.Sprintf("begins with %q, which is sent in front of it anyway: remove it", before)
	}
	return ""
}

// signingKeyPrefix marks a secret of the Standard Webhooks specification. It is not part of the
// base64.
const signingKeyPrefix = "whsec_"

// SigningKey returns the bytes that a secret stands for which signs webhooks: what follows whsec_
// in base64. A secret without that prefix is base64 too, as the reference libraries take it, or,
// where it is not, used as it stands: some consumers give out plain text.
func SigningKey(text string) ([]byte, error) {
	for _, asymmetric := range []string{"whsk_", "whpk_", "v1a,"} {
		if strings.HasPrefix(text, asymmetric) {
			return nil, fmt.Errorf("begins with %q, and so is of the asymmetric signatures, which there are not here: "+
				"give a secret that begins with %s", asymmetric, signingKeyPrefix)
		}
	}
	if strings.HasPrefix(text, "v1,") {
		return nil, fmt.Errorf(`begins with "v1,", which is no part of the secret: it begins with %s`, signingKeyPrefix)
	}
	encoded, prefixed := strings.CutPrefix(text, signingKeyPrefix)
	key, err := base64.StdEncoding.DecodeString(encoded)
	switch {
	case err != nil && prefixed: // err names a place in the secret
		return nil, fmt.Errorf("begins with %s, so base64 must follow, and does not", signingKeyPrefix)
	case err != nil:
		return []byte(encoded), nil
	case len(key) == 0:
		return nil, fmt.Errorf("holds nothing behind %s", signingKeyPrefix)
	}
	return key, nil
}
