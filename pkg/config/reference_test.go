package config

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/units"
)

const referenceFile = "../../docs/configuration.md"

// TestReference makes docs/configuration.md of the types, their comments and their defaults, and
// compares. With HMCNOTIFYD_WRITE_DOCS, as "make docs" sets it, it writes the file.
func TestReference(t *testing.T) {
	text := newReference(t).write(t)
	if os.Getenv("HMCNOTIFYD_WRITE_DOCS") != "" {
		if err := os.WriteFile(referenceFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != text {
		t.Error("docs/configuration.md is not what the code says: run make docs, and look at what changed")
	}
}

const referenceIntro = `# Configuration reference

Every key of the configuration file. This page is made from the code by ` + "`make docs`" + `; a test compares the two.
[config.example.yaml](../config.example.yaml) shows the same keys as a file, [recipes.md](recipes.md) configurations for a purpose,
[schema.json](schema.json) is a JSON Schema of them for editors.

    hmcnotifyd check-config FILE            # every mistake in a file, with its line
    hmcnotifyd check-config --online FILE   # also logs on to each HMC and tries each sink

| kind of value | how it is written |
|---|---|
| text, list of texts | ` + "`abc`, `[abc, def]`" + `; text with one of ` + "`: # { } [ ] , & * ! | > ' \" %`" + ` in quotes |
| duration | ` + "`500ms`, `30s`, `10m`, `24h`, `7d`" + ` |
| size | ` + "`512MiB`, `1GiB`" + `, or a number of bytes |
| pattern | a regular expression ([RE2](https://github.com/google/re2/wiki/Syntax)) that must match the whole value; a plain word is an exact value |
| expression | a regular expression that may match anywhere in a text; both compile to no more than 10,000 steps |
| secret | a text that no log, error, metric or page shows. Better in a file of its own: the key that ends with ` + "`_file`" + ` names it |
| file | a path; a relative one is relative to the configuration file |
| address | the address of a server. Logs and pages show scheme and host of it only |

An unknown key is an error, and so is a key that is given twice. The file is read again at ` + "`SIGHUP`" + ` and ` + "`POST /-/reload`" + `; if it has a
mistake, everything goes on as it was.
`

// reference collects the sections of the page.
type reference struct {
	fields   map[string]string // comments by Type.Field
	types    map[string]string // comments by Type
	values   map[string]string // what a group of constants lists, by the beginning of their names
	sections []string
	seen     map[reflect.Type]string // the section of a type
	problems []string
}

// newReference reads the comments.
func newReference(t *testing.T) *reference {
	t.Helper()
	r := &reference{fields: map[string]string{}, types: map[string]string{}, values: map[string]string{}, seen: map[reflect.Type]string{}}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "../receiver/config.go", "../match/match.go") {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			decl, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range decl.Specs {
				if s, ok := spec.(*ast.TypeSpec); ok {
					r.readType(decl, s)
				}
			}
			if decl.Tok == token.CONST {
				r.readConstants(decl)
			}
		}
	}
	return r
}

func (r *reference) readType(decl *ast.GenDecl, s *ast.TypeSpec) {
	r.types[s.Name.Name] = decl.Doc.Text()
	fields, ok := s.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range fields.Fields.List {
		for _, name := range f.Names {
			text := oneLine(f.Doc.Text())
			if c := oneLine(f.Comment.Text()); c != "" {
				text = strings.TrimSpace(text + " " + c)
			}
			r.fields[s.Name.Name+"."+name.Name] = text
		}
	}
}

// groupOf is the comment of a group of constants that are the values of a key.
var groupOf = regexp.MustCompile(`^The (?:further )?values of (\w+\.\w+)`)

func (r *reference) readConstants(decl *ast.GenDecl) {
	m := groupOf.FindStringSubmatch(decl.Doc.Text())
	if m == nil {
		return
	}
	for _, spec := range decl.Specs {
		for _, v := range spec.(*ast.ValueSpec).Values {
			if lit, ok := v.(*ast.BasicLit); ok {
				text, _ := strconv.Unquote(lit.Value)
				r.values[m[1]] = strings.TrimPrefix(r.values[m[1]]+", ", ", ") + "`" + text + "`"
			}
		}
	}
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// write returns the page.
func (r *reference) write(t *testing.T) string {
	t.Helper()
	r.section("", reflect.ValueOf(withDefaults(reflect.TypeFor[Config]())).Elem(), nil)
	for _, p := range r.problems {
		t.Error(p)
	}
	return referenceIntro + strings.Join(r.sections, "")
}

// withDefaults returns a pointer to a value of type t as it is before a file is read into it.
func withDefaults(t reflect.Type) any {
	p := reflect.New(t)
	setDefaults(p)
	return p.Interface()
}

// section adds the section of the mapping at path, and those below it. documented has the
// descriptions of keys of another package.
func (r *reference) section(path string, v reflect.Value, documented map[string]string) {
	t := v.Type()
	var rows, later strings.Builder
	var below []func()
	r.rows(&rows, path, v, documented, &below)
	heading := "The file"
	if path != "" {
		heading = "`" + path + "`"
	}
	fmt.Fprintf(&later, "\n## %s\n\n", heading)
	if doc := r.types[t.Name()]; doc != "" && path != "" && !strings.Contains(t.PkgPath(), "prometheus") {
		paragraph, _, _ := strings.Cut(doc, "\n\n")
		fmt.Fprintf(&later, "%s\n\n", sentence(r.prose(path, t, strings.TrimPrefix(oneLine(paragraph), t.Name()+" "))))
	}
	fmt.Fprintf(&later, "| key | value | default | |\n|---|---|---|---|\n%s", rows.String())
	r.sections = append(r.sections, later.String())
	for _, f := range below {
		f()
	}
}

// rows adds the rows of a mapping.
func (r *reference) rows(rows *strings.Builder, path string, v reflect.Value, documented map[string]string, below *[]func()) {
	for f := range v.Type().Fields() {
		field := v.FieldByIndex(f.Index)
		if isInline(f) {
			r.rows(rows, path, field, documented, below)
			continue
		}
		key := keyOf(f)
		if key == "" {
			continue
		}
		at := join(path, key)
		doc, ok := documented[strings.TrimPrefix(at, documented[""])]
		if !ok {
			doc = r.prose(at, v.Type(), r.fields[v.Type().Name()+"."+f.Name])
		}
		// What it was called in Go begins the comment.
		doc = strings.TrimPrefix(strings.TrimPrefix(doc, "`"+key+"` "), f.Name+" ")
		doc = strings.TrimPrefix(strings.TrimPrefix(doc, "is "), "are ")
		kind, inner := kindOf(f.Type, key)
		value := defaultOf(field)
		if inner != nil {
			value = ""
		}
		if rest, ok := cutDefault(&doc); ok {
			value = rest
		}
		if inner != nil {
			name := r.seen[inner]
			if name == "" {
				name = at
				r.seen[inner] = at
				next, documented := field, documented
				if f.Type.Kind() != reflect.Struct {
					next = reflect.ValueOf(withDefaults(inner)).Elem()
				}
				if inner == reflect.TypeFor[promconfig.HTTPClientConfig]() {
					next, documented = reflect.ValueOf(new(defaultHTTPClient())).Elem(), httpConfigDocs(at+".")
				}
				*below = append(*below, func() { r.section(at, next, documented) })
			}
			if doc == "" {
				doc = r.summary(inner)
			}
			kind = fmt.Sprintf("[%s](#%s)", kind, strings.ReplaceAll(name, ".", ""))
		}
		if !strings.HasSuffix(doc, "...") {
			doc = strings.TrimSuffix(doc, ".")
		}
		if doc == "" && strings.HasSuffix(key, "_file") {
			doc = "instead of `" + strings.TrimSuffix(key, "_file") + "`"
		}
		if doc == "" {
			r.problems = append(r.problems, at+" has no comment at its field: docs/configuration.md needs one")
		}
		fmt.Fprintf(rows, "| `%s` | %s | %s | %s |\n", key, kind, value, cell(doc))
	}
}

// summary is the first sentence of a type's comment.
func (r *reference) summary(t reflect.Type) string {
	paragraph, _, _ := strings.Cut(r.types[t.Name()], "\n\n")
	doc, _, _ := strings.Cut(oneLine(strings.TrimPrefix(paragraph, t.Name()+" ")), ". ")
	return strings.TrimSuffix(r.prose(t.Name(), t, doc), ".")
}

var (
	goName    = regexp.MustCompile(`\b[A-Z]\w+(?:\.[A-Z]\w+)?\b`)
	constants = regexp.MustCompile(`of the (\w+) constants`)
	camelCase = regexp.MustCompile(`\b[A-Z][a-z]+[A-Z][a-z]+\w*`)
	fallback  = regexp.MustCompile(`(?:[;.] |^)(?:(?:default|empty|none|nil): ([^;.]+)|(required)(?:, ([^;]+))?)(?:[;.] ?|$)`)
	loaded    = regexp.MustCompile(`(?:; |^| )also (?:those that|when it) came from ` + "`(\\w+)`")
	seeGo     = regexp.MustCompile(`(?:; |^)(?:see|of) [A-Z]\w+$`)
	absolute  = regexp.MustCompile(`^absolute(?:; |$)|[;,] absolute\b`)
)

// prose turns the comment of a field into what the user of a file reads: `password_file` instead of
// PasswordFile.
func (r *reference) prose(at string, t reflect.Type, doc string) string {
	doc = constants.ReplaceAllStringFunc(doc, func(found string) string {
		for owner, values := range r.values {
			if f := strings.Split(owner, "."); f[0] == t.Name() && join("", strings.ToLower(f[1])) == at[strings.LastIndex(at, ".")+1:] {
				return values
			}
		}
		return found
	})
	doc = goName.ReplaceAllStringFunc(doc, func(name string) string {
		// HMC and TLS are words as well.
		if f, ok := t.FieldByName(name); ok && keyOf(f) != "" && name != strings.ToUpper(name) {
			return "`" + keyOf(f) + "`"
		}
		return name
	})
	doc = seeGo.ReplaceAllString(doc, "")
	doc = absolute.ReplaceAllString(doc, "")
	// The type holds what was in the file as well. A user chooses between the two.
	if m := loaded.FindStringSubmatch(doc); m != nil {
		if doc = strings.Replace(doc, m[0], "", 1); doc == "" {
			doc = "better `" + m[1] + "`"
		}
	}
	if found := camelCase.FindString(doc); found != "" && found != "CloudEvents" && found != "JetStream" && found != "OpenSearch" && found != "OpenTelemetry" {
		r.problems = append(r.problems, at+": its comment says "+found+", which no user of a file knows: "+doc)
	}
	if strings.Contains(doc, " constants") {
		r.problems = append(r.problems, at+": its comment speaks of constants; a group of constants with the comment \"The values of "+t.Name()+".Field\" is put in their place")
	}
	return doc
}

// cutDefault takes what a comment says of a default out of it.
func cutDefault(doc *string) (string, bool) {
	m := fallback.FindStringSubmatchIndex(*doc)
	if m == nil {
		return "", false
	}
	group := func(i int) string {
		if m[2*i] < 0 {
			return ""
		}
		return (*doc)[m[2*i]:m[2*i+1]]
	}
	value := group(1) + group(2)
	if group(3) != "" {
		value += ", " + group(3)
	}
	before, after := (*doc)[:m[0]], (*doc)[m[1]:]
	if before != "" && after != "" {
		before += "; "
	}
	*doc = before + after
	return value, true
}

// sentence begins with a capital and has an end.
func sentence(s string) string {
	for _, verb := range []string{"is ", "are "} {
		s = strings.TrimPrefix(s, verb)
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// cell is text as it may stand in a table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// kindOf names the kind of value that a key takes; inner is the type of the mapping where it has a
// section.
func kindOf(t reflect.Type, key string) (kind string, inner reflect.Type) {
	switch t {
	case reflect.TypeFor[Secret](), reflect.TypeFor[promconfig.Secret]():
		return "secret", nil
	case reflect.TypeFor[URL](), reflect.TypeFor[promconfig.URL]():
		return "address", nil
	case reflect.TypeFor[match.Pattern]():
		return "pattern", nil
	case reflect.TypeFor[match.Patterns]():
		return "pattern, or list of them", nil
	case reflect.TypeFor[match.Search]():
		return "expression, or list of them", nil
	case reflect.TypeFor[SeverityTable]():
		return "mapping to `info`, `warning` or `critical`", nil
	case reflect.TypeFor[time.Duration]():
		return "duration", nil
	case reflect.TypeFor[Size]():
		return "size", nil
	case reflect.TypeFor[promconfig.TLSVersion]():
		return "text", nil
	case reflect.TypeFor[*promconfig.Headers](), reflect.TypeFor[promconfig.ProxyHeader]():
		return "mapping", nil
	case reflect.TypeFor[HTTPConfig]():
		return "mapping", reflect.TypeFor[promconfig.HTTPClientConfig]()
	}
	switch t.Kind() {
	case reflect.String:
		if strings.HasSuffix(key, "_file") {
			return "file", nil
		}
		return "text", nil
	case reflect.Bool:
		return "true or false", nil
	case reflect.Int:
		return "whole number", nil
	case reflect.Float64:
		return "number", nil
	case reflect.Struct:
		return "mapping", t
	case reflect.Pointer:
		return kindOf(t.Elem(), key)
	case reflect.Map:
		return "mapping", nil
	case reflect.Slice:
		kind, inner := kindOf(t.Elem(), strings.TrimSuffix(key, "s"))
		switch {
		case strings.HasPrefix(kind, "address"):
			kind += "e"
		case strings.HasSuffix(key, "_files"):
			kind = "file"
		}
		return "list of " + kind + "s", inner
	}
	return t.String(), nil
}

// defaultOf writes a default as a file would.
func defaultOf(v reflect.Value) string {
	var text string
	switch x := v.Interface().(type) {
	case time.Duration:
		text = units.FormatDuration(x)
	case Size:
		text = strings.Replace(x.String(), "0B", "0", 1)
	case match.Pattern:
		text = strconv.Quote(x.String())
	case []string:
		if len(x) > 0 {
			text = "[" + strings.Join(x, ", ") + "]"
		}
	case bool, int, float64:
		text = fmt.Sprint(x)
	case LogStart:
		text = string(x)
	case Start:
		text = string(x)
	case string:
		text = x
	}
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// httpConfigDocs describes the keys of Prometheus' http_config, by their place in the first one; ""
// is that of the mapping.
func httpConfigDocs(path string) map[string]string {
	docs := map[string]string{
		"basic_auth":                         "userid and password in each request",
		"basic_auth.username":                "the userid",
		"basic_auth.username_file":           "instead of `username`",
		"basic_auth.password":                "the password",
		"basic_auth.password_file":           "instead of `password`",
		"authorization":                      "the header `Authorization` of each request",
		"authorization.type":                 "its first word; default: `Bearer`",
		"authorization.credentials":          "what follows, such as a token",
		"authorization.credentials_file":     "instead of `credentials`",
		"oauth2":                             "a token that a server of OAuth 2 gives out",
		"oauth2.client_id":                   "who asks for a token",
		"oauth2.client_secret":               "the secret of `client_id`",
		"oauth2.client_secret_file":          "instead of `client_secret`",
		"oauth2.client_certificate_key_id":   "the id of the key, as the token server knows it",
		"oauth2.client_certificate_key":      "PEM; the key that signs requests for tokens",
		"oauth2.client_certificate_key_file": "instead of `client_certificate_key`",
		"oauth2.grant_type":                  "or `urn:ietf:params:oauth:grant-type:jwt-bearer`, which takes the keys from `client_certificate_key_id` to `claims`; default: `client_credentials`",
		"oauth2.signature_algorithm":         "`RS256`, `RS384` or `RS512`; default: `RS256`",
		"oauth2.iss":                         "who the request says it is from; default: `client_id`",
		"oauth2.audience":                    "whom the request is for",
		"oauth2.claims":                      "what else the request says",
		"oauth2.scopes":                      "what the token is for",
		"oauth2.token_url":                   "where tokens are given out",
		"oauth2.endpoint_params":             "parameters of the request for a token",
		"oauth2.tls_config":                  "how the token server is reached",
		"oauth2.proxy_url":                   "the proxy on the way to the token server",
		"oauth2.no_proxy":                    "as below `http_config`",
		"oauth2.proxy_from_environment":      "as below `http_config`",
		"oauth2.proxy_connect_header":        "as below `http_config`",
		"bearer_token":                       "older form of `authorization`",
		"bearer_token_file":                  "older form of `authorization`",
		"tls_config":                         "how the server's certificate is verified, and the daemon's own",
		"follow_redirects":                   "cannot be true: a redirect would take events where nobody has configured them to go",
		"enable_http2":                       "whether HTTP/2 is used where the server offers it",
		"proxy_url":                          "`http://`, `https://` or `socks5://`",
		"no_proxy":                           "what is reached without the proxy, separated by commas: `.example.com,10.0.0.0/8`",
		"proxy_from_environment":             "whether HTTPS_PROXY and the like count, instead of `proxy_url`",
		"proxy_connect_header":               "headers for the proxy: `{Proxy-Authorization: [...]}`",
		"http_headers":                       "further headers, each with `values`, `secrets` or `files`: `{X-Team: {values: [ops]}}`",
	}
	for _, at := range []string{"tls_config.", "oauth2.tls_config."} {
		for key, doc := range map[string]string{
			"ca":                   "PEM; instead of `ca_file`",
			"ca_file":              "PEM; the authorities to trust; default: those of the system",
			"cert":                 "PEM; instead of `cert_file`",
			"cert_file":            "PEM; the daemon's own certificate, for a server that asks for one",
			"key":                  "PEM; instead of `key_file`",
			"key_file":             "PEM; the key of that certificate",
			"server_name":          "the name the certificate must have; default: the host",
			"insecure_skip_verify": "true: the certificate is not verified",
			"min_version":          "`TLS10` to `TLS13`; default: `TLS12`",
			"max_version":          "`TLS10` to `TLS13`; default: `TLS13`",
		} {
			docs[at+key] = doc
		}
	}
	docs[""] = path
	return docs
}

// What a comment says of a default is taken out of it, and what it calls by its name in Go is
// called as in a file.
func TestReferenceProse(t *testing.T) {
	for _, test := range []struct{ doc, value, rest string }{
		{"required; unique", "required", "unique"},
		{"the label hmc; default: what is there; unique", "what is there", "the label hmc; unique"},
		{"as it is; default: `x`", "`x`", "as it is"},
		{"required, unless there is a session", "required, unless there is a session", ""},
		{"no default at all", "", "no default at all"},
	} {
		doc := test.doc
		if value, _ := cutDefault(&doc); value != test.value || doc != test.rest {
			t.Errorf("%q: %q, %q", test.doc, value, doc)
		}
	}
	r := newReference(t)
	if got := r.prose("hmcs.password_file", reflect.TypeFor[HMC](), "see Password and Stomp"); got != "see `password` and `stomp`" {
		t.Error(got)
	}
	r.problems = nil
	if r.prose("hmcs.x", reflect.TypeFor[HMC](), "as FormatJSON of the Format constants"); !slices.ContainsFunc(r.problems, func(p string) bool { return strings.Contains(p, "constants") }) {
		t.Errorf("%q", r.problems)
	}
	if r.fields["StompRetryTimeoutConfig.ConnectRetries"] == "" || reflect.TypeFor[receiver.StompRetryTimeoutConfig]().Name() != "StompRetryTimeoutConfig" {
		t.Error("no comments of pkg/receiver")
	}
}
