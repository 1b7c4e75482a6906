package capture

import (
	"bytes"
	"encoding/json"
	"net/url"
	"regexp"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/secret"
)

const (
	// maxDepth is how deep what the API tells may be nested; what is deeper is left out.
	maxDepth = 32
	// maxSecrets bounds how many secrets are remembered.
	maxSecrets = 10_000
)

var (
	// ibmWord is what a word of IBM's lists looks like.
	ibmWord = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	// code is a number, a version, or several of them.
	code = regexp.MustCompile(`^-?[0-9]+([.,][0-9]+)*$`)
	// psw is a program status word.
	psw = regexp.MustCompile(`^[0-9A-Fa-f ]{16,40}$`)
	// bootOfLinux is how the first message of a Linux that boots begins, by which an IPL is known.
	bootOfLinux = regexp.MustCompile(`^\[ *0\.0+\] Linux version `)
	// activeMQ is what a broker calls itself.
	activeMQ = regexp.MustCompile(`^ActiveMQ/[0-9.]+$`)
	method   = regexp.MustCompile(`^(GET|POST|DELETE|PUT)$`)
	mimeType = regexp.MustCompile(`^[a-z]+/[a-z.+-]+(; ?charset=[A-Za-z0-9-]+)?$`)
)

// cleaner takes out of what was recorded what nobody else is to see: secrets, and, unless names is
// nil, every word that is not one of the API's own. It goes through everything twice: the first
// time it only looks for names and secrets.
type cleaner struct {
	// names is nil where names are kept.
	names   *words
	noting  bool
	secrets []string
	hide    secret.Set
	// doubtful is how many members had names that are not known here.
	doubtful int
}

// replace begins the second time.
func (c *cleaner) replace() {
	c.noting = false
	c.hide = secret.New(c.secrets...)
	if c.names != nil {
		c.names.noting = false
	}
}

// entry returns an entry without what nobody is to see.
func (c *cleaner) entry(e *Entry) *Entry {
	clean := *e
	if r := e.Request; r != nil {
		q := *r
		q.URI, q.Query = c.uri(r.URI), c.query(r.Query)
		q.Sent, q.Answer = c.content(r.Sent), c.content(r.Answer)
		q.Headers = Headers{}
		if value := r.Headers.ContentType; len(value) <= maxWord && mimeType.MatchString(value) {
			q.Headers.ContentType = value
		}
		if value := r.Headers.RetryAfter; len(value) <= maxWord && code.MatchString(value) {
			q.Headers.RetryAfter = value
		}
		clean.Request = &q
	}
	if f := e.Frame; f != nil {
		g := Frame{Command: f.Command, Body: c.content(f.Body)}
		for _, h := range f.Headers {
			if name, value, ok := c.header(h[0], h[1]); ok {
				g.Headers = append(g.Headers, [2]string{name, value})
			}
		}
		clean.Frame = &g
	}
	return &clean
}

func (c *cleaner) content(b Content) Content {
	switch {
	case b.JSON != nil:
		return Content{JSON: c.value(nil, b.JSON, "", 0), Mended: b.Mended}
	case b.Text != "":
		return Content{Text: c.plain(b.Text, false, nil)}
	case b.Bytes != nil:
		return Content{Bytes: []byte(c.plain(string(b.Bytes), false, nil))}
	}
	return b
}

// plain is a text of which nothing is known.
func (c *cleaner) plain(text string, name bool, keep func(string) bool) string {
	if c.names != nil {
		return c.names.replace(text, name, keep)
	}
	return c.hide.Hide(text)
}

// kept is a text that is kept as it is.
func (c *cleaner) kept(text string) string { return c.hide.Hide(text) }

func (c *cleaner) isProse(word string) bool { return prose[strings.ToLower(word)] }

// text is the string of a member.
func (c *cleaner) text(member, s string) string {
	if s == "" {
		return s
	}
	if isSecretName(member) {
		if c.noting && len(c.secrets) < maxSecrets {
			c.secrets = append(c.secrets, s)
		}
		return secret.Hidden
	}
	switch {
	case s == "true" || s == "false",
		wordsOfIBM[member] && ibmWord.MatchString(s),
		codes[member] && code.MatchString(s),
		member == "psw" && psw.MatchString(s),
		member == "server" && activeMQ.MatchString(s),
		member == "content-type" && mimeType.MatchString(s),
		member == "request-method" && method.MatchString(s),
		member == "method" && method.MatchString(s):
		return c.kept(s)
	case member == "property-name" && properties[s]:
		return c.kept(s)
	case member == "property-names":
		return c.list(s)
	case strings.HasPrefix(s, "/api/"):
		path, query, found := strings.Cut(s, "?")
		if path = c.uri(path); found {
			path += "?" + c.query(query)
		}
		return path
	case member == "message-text":
		boot := bootOfLinux.FindString(s)
		return boot + c.plain(s[len(boot):], false, nil)
	case proseProperties[member]:
		return c.plain(s, false, c.isProse)
	}
	return c.plain(s, isName(member), nil)
}

func isName(member string) bool { return nameProperties[member] || strings.HasSuffix(member, "name") }

// isFree says whether a member holds whatever somebody has given it, so that even its numbers may
// tell whose they are.
func isFree(member string) bool {
	return isName(member) || proseProperties[member] || freeProperties[member]
}

// list is a list of the names of properties, with blanks between them.
func (c *cleaner) list(s string) string {
	names := strings.Split(s, " ")
	for i, name := range names {
		names[i] = c.property(name)
	}
	return strings.Join(names, " ")
}

// property is the name of a property or member.
func (c *cleaner) property(name string) string {
	if name == "" || properties[name] {
		return name
	}
	if !c.noting {
		c.doubtful++
	}
	return c.plain(name, false, nil)
}

func (c *cleaner) uri(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if !uriWords[s] {
			segments[i] = c.plain(s, false, nil)
		}
	}
	return strings.Join(segments, "/")
}

func (c *cleaner) query(query string) string {
	values, err := url.ParseQuery(query)
	if err != nil {
		return c.plain(query, false, nil)
	}
	clean := make(url.Values)
	for name, all := range values {
		for _, v := range all {
			switch name {
			case "properties", "additional-properties":
				v = strings.ReplaceAll(c.list(strings.ReplaceAll(v, ",", " ")), " ", ",")
			default:
				v = c.text(name, v)
			}
			clean.Add(c.property(name), v)
		}
	}
	return clean.Encode()
}

// header is a header of a frame; ok: it is kept.
func (c *cleaner) header(name, value string) (string, string, bool) {
	switch name {
	case "subscription", "content-length", "login", "passcode":
		return "", "", false
	case "destination":
		const prefix = "/topic/"
		if topic, isTopic := strings.CutPrefix(value, prefix); isTopic {
			return name, prefix + c.plain(topic, false, nil), true
		}
	case "message-id", "session", "correlation-id":
		return name, c.plain(value, false, nil), true
	}
	if !frameHeaders[name] {
		return c.plain(name, false, nil), c.text(name, value), true
	}
	return name, c.text(name, value), true
}

// value appends what is left of a JSON value; member is the name of the one it belongs to.
func (c *cleaner) value(out []byte, raw json.RawMessage, member string, depth int) []byte {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || depth > maxDepth {
		return append(out, "null"...)
	}
	if isSecretName(member) && (raw[0] == '{' || raw[0] == '[') {
		return appendString(out, secret.Hidden)
	}
	switch raw[0] {
	case '{':
		return c.object(out, raw, depth)
	case '[':
		out = append(out, '[')
		d := json.NewDecoder(bytes.NewReader(raw))
		_, _ = d.Token() // [
		for i := 0; d.More(); i++ {
			var element json.RawMessage
			if d.Decode(&element) != nil {
				break // it was checked to be JSON
			}
			if i > 0 {
				out = append(out, ',')
			}
			out = c.value(out, element, member, depth+1)
		}
		return append(out, ']')
	case '"':
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return append(out, "null"...)
		}
		return appendString(out, c.text(member, s))
	case 't', 'f', 'n':
		return append(out, raw...)
	}
	// A number. What is a secret is none, whatever it looks like.
	switch {
	case isSecretName(member), c.names != nil && member != "" && !properties[member]:
		return append(out, '0')
	case c.names != nil && isFree(member):
		if made := c.plain(string(raw), false, nil); json.Valid([]byte(made)) {
			return append(out, made...)
		}
		return append(out, '0')
	}
	return append(out, raw...)
}

func (c *cleaner) object(out []byte, raw json.RawMessage, depth int) []byte {
	type pair struct {
		name  string
		value json.RawMessage
	}
	var members []pair
	about := "" // which property a report is about
	d := json.NewDecoder(bytes.NewReader(raw))
	_, _ = d.Token() // {
	for d.More() {
		t, err := d.Token()
		var p pair
		if name, ok := t.(string); err != nil || !ok || d.Decode(&p.value) != nil {
			break // it was checked to be JSON
		} else {
			p.name = name
		}
		if p.name == "property-name" {
			_ = json.Unmarshal(p.value, &about)
		}
		members = append(members, p)
	}
	out = append(out, '{')
	for i, p := range members {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendString(out, c.property(p.name))
		out = append(out, ':')
		meaning := p.name
		if about != "" && (p.name == "old-value" || p.name == "new-value") {
			meaning = about
		}
		out = c.value(out, p.value, meaning, depth+1)
	}
	return append(out, '}')
}

func appendString(out []byte, s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string can always be encoded
	return append(out, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}
