package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	promconfig "github.com/prometheus/common/config"

	"github.com/hmcnotifyd/hmcnotifyd/docs"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
)

const (
	// lastOnes is how many of the last lines of the log, and of the last events, are taken.
	lastOnes = 1000
	// maxFile bounds each file, maxLine a line of the log or an event, in bytes.
	maxFile = 32 << 20
	maxLine = 8 << 20
	// maxDepth is how deep what a daemon tells may be nested; what is deeper is left out.
	maxDepth = 32
)

// source has the parts. One that is nil is not there.
type source struct {
	// program is the version of the program that asks, as it prints it.
	program string
	// config is the text of the configuration file, loaded what it means.
	config []byte
	loaded *config.Config
	// status and metrics are what the daemon answers with.
	status, metrics []byte
	// events and log are the last ones, each a line.
	events, log [][]byte
	// missing says of the parts that are not there why.
	missing map[string]string
}

// ownWords are words of the log that stand in no document.
const ownWords = `
	ts logger msg caller stack debug warn panic dial tcp udp lookup no such read write connect connection refused
	reset by peer i o timeout deadline exceeded canceled context EOF unexpected broken pipe certificate signed unknown
	authority expired handshake failure remote local error route network unreachable permission denied space left
	device`

// file is a part of a bundle as it is written.
type file struct {
	name, what string
	content    []byte
}

// nameKeys are members whose strings are names, strangeKeys those whose strings others have
// written.
var (
	nameKeys = []string{
		"name", "hmc", "hmcs", "cpc", "sink", "host", "hosts", "userid", "user", "group", "os_name",
		"sysplex", "partition", "partition-name", "cpc-name",
	}
	strangeKeys = []string{
		"text", "message-text", "prompt-text", "summary", "event-message", "event-name", "body_text",
		"data-item-value", "reply", "description", "labels", "runbook",
	}
	label = regexp.MustCompile(`([a-z_]+)="((?:[^"\\]|\\.)*)"`)
	// secretLine is a line of a configuration with a secret in it.
	secretLine = regexp.MustCompile(`(?i)((?:password|passphrase|token|secret|credentials?|key|id)["']?\s*:\s*)` +
		`(\S.*)$`)
	instant = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+-][0-9:]+)$`)
)

// files makes the files of a bundle, and a first one that says what is in it.
func (s *source) files(ctx context.Context) ([]file, error) {
	secrets, names := known(s.loaded)
	public := []string{s.program, ownWords}
	entries, err := docs.Files.ReadDir(".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		text, err := docs.Files.ReadFile(e.Name())
		if err != nil {
			return nil, err
		}
		public = append(public, string(text))
	}
	b := &bundle{texts: capture.NewTexts(secrets, public...), noting: true}
	for _, name := range names {
		b.texts.Name(name)
	}
	parts := []struct {
		name, what string
		there      bool
		make       func() []byte
	}{
		{
			"config.yaml", "the configuration file", s.config != nil,
			func() []byte { return b.config(s.config) },
		},
		{
			"status.json", "what /api/v1/status answers: HMCs, sinks, storage", s.status != nil,
			func() []byte { return b.json(s.status) },
		},
		{"metrics.txt", "what /metrics answers", s.metrics != nil, func() []byte { return b.metrics(s.metrics) }},
		{
			"events.jsonl", fmt.Sprintf("the last events, %d", len(s.events)), s.events != nil,
			func() []byte { return b.lines(s.events) },
		},
		{
			"log.jsonl", fmt.Sprintf("the last lines of the log, %d", len(s.log)), s.log != nil,
			func() []byte { return b.lines(s.log) },
		},
	}
	for _, p := range parts {
		if p.there {
			p.make()
		}
		if ctx.Err() != nil {
			return nil, errors.New("interrupted")
		}
	}
	b.texts.Noted()
	b.noting = false
	files := []file{{"version.txt", "the version of the program that made this", []byte(s.program)}}
	contents := new(strings.Builder)
	contents.WriteString("What is in this bundle. Secrets are left out; names, addresses, ids and texts are " +
		"replaced,\nthe same one by the same one throughout. Look at it before you give it to anybody.\n\n")
	for _, p := range parts {
		if p.there {
			files = append(files, file{p.name, p.what, p.make()})
		}
	}
	for _, f := range files {
		fmt.Fprintf(contents, "%-14s %8d bytes: %s\n", f.name, len(f.content), f.what)
	}
	for _, p := range parts {
		if !p.there {
			fmt.Fprintf(contents, "%-14s not there: %s\n", p.name, b.texts.Clean(s.missing[p.name]))
		}
	}
	fmt.Fprintf(contents, "\n%d words, addresses and ids are replaced.\n", b.texts.Replaced())
	return append([]file{{"CONTENTS.txt", "this list", []byte(contents.String())}}, files...), nil
}

// write writes files as a .tar.gz.
func write(w io.Writer, files []file, now time.Time) error {
	zipped := gzip.NewWriter(w)
	out := tar.NewWriter(zipped)
	for _, f := range files {
		err := out.WriteHeader(&tar.Header{
			Name: "hmcnotifyd-support/" + f.name, Mode: 0o600, Size: int64(len(f.content)), ModTime: now,
			Typeflag: tar.TypeReg,
		})
		if err != nil {
			return err
		}
		if _, err := out.Write(f.content); err != nil {
			return err
		}
	}
	return errors.Join(out.Close(), zipped.Close())
}

// namesIn are the fields of a configuration in which somebody's machines, users and products are
// named, or by which they are matched.
var namesIn = []string{
	"Name", "Userid", "Username", "Group", "Hosts", "Labels", "Brokers", "Address", "Hostname", "URLs", "ServerName",
	"Topic", "Subject", "Stream", "ClientID", "DataStream", "HMC", "CPC", "Partition", "User",
}

// known lists the secrets and names of a configuration.
func known(cfg *config.Config) (secrets, names []string) {
	if cfg == nil {
		return nil, nil
	}
	seen := make(map[uintptr]bool)
	var walk func(v reflect.Value, name bool)
	walk = func(v reflect.Value, name bool) {
		if !v.IsValid() {
			return
		}
		if v.CanInterface() {
			if s, ok := reflect.TypeAssert[config.Secret](v); ok {
				if s.IsSet() {
					secrets = append(secrets, s.Expose())
				}
				return
			}
			if s, ok := reflect.TypeAssert[promconfig.Secret](v); ok {
				secrets = append(secrets, string(s))
				return
			}
			if h, ok := reflect.TypeAssert[config.HTTPConfig](v); ok {
				walk(reflect.ValueOf(h.Client()), name)
				return
			}
			if s, ok := reflect.TypeAssert[match.Pattern](v); ok {
				if name {
					names = append(names, s.String())
				}
				return
			}
		}
		switch v.Kind() {
		case reflect.String:
			if name {
				names = append(names, v.String())
			}
		case reflect.Pointer:
			if v.IsNil() || seen[v.Pointer()] {
				return
			}
			seen[v.Pointer()] = true
			walk(v.Elem(), name)
		case reflect.Interface:
			walk(v.Elem(), name)
		case reflect.Struct:
			for i := range v.NumField() {
				if f := v.Type().Field(i); f.IsExported() {
					walk(v.Field(i), name || slices.Contains(namesIn, f.Name))
				}
			}
		case reflect.Slice, reflect.Array:
			for i := range v.Len() {
				walk(v.Index(i), name)
			}
		case reflect.Map:
			for _, key := range v.MapKeys() {
				walk(v.MapIndex(key), name)
			}
		}
	}
	walk(reflect.ValueOf(cfg), false)
	return secrets, names
}

// bundle cleans the parts. While it is noting it only looks at them.
type bundle struct {
	texts  *capture.Texts
	noting bool
}

// text cleans a text of the program.
func (b *bundle) text(s string) string {
	if b.noting {
		b.texts.Note(s)
		return s
	}
	if instant.MatchString(s) {
		return s
	}
	return b.texts.Clean(s)
}

// member cleans the string of a member; strange says that somebody else has written it.
func (b *bundle) member(key, s string, strange bool) string {
	switch {
	case slices.Contains(nameKeys, key):
		if b.noting {
			b.texts.Name(s)
		}
		return b.text(s)
	case strange && !b.noting:
		return b.texts.Strange(s)
	}
	return b.text(s)
}

// config cleans a configuration, line by line, with its comments.
func (b *bundle) config(text []byte) []byte {
	var out bytes.Buffer
	block := -1 // how far the key is indented whose value goes on below it
	for line := range bytes.Lines(text) {
		s := strings.TrimRight(string(line), "\r\n")
		indent := len(s) - len(strings.TrimLeft(s, " -"))
		if block >= 0 && (s == "" || indent > block) {
			continue
		}
		block = -1
		if m := secretLine.FindStringSubmatchIndex(s); m != nil {
			if strings.ContainsRune("|>", rune(s[m[4]])) {
				block = indent
			}
			out.WriteString(b.text(s[:m[3]]) + "<secret>\n")
			continue
		}
		out.WriteString(b.text(s) + "\n")
	}
	return out.Bytes()
}

func (b *bundle) metrics(text []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte("#")) { // the program's own
			out.Write(line)
			continue
		}
		out.WriteString(label.ReplaceAllStringFunc(string(line), func(pair string) string {
			m := label.FindStringSubmatch(pair)
			return m[1] + `="` + b.member(m[1], m[2], false) + `"`
		}))
	}
	return out.Bytes()
}

// lines cleans lines that are JSON, or are not.
func (b *bundle) lines(lines [][]byte) []byte {
	var out bytes.Buffer
	for _, line := range lines {
		if i := bytes.IndexByte(line, '{'); i > 0 && i <= len("<6>") && line[0] == '<' {
			line = line[i:] // behind the priority that the journal takes
		}
		if clean := bytes.TrimSpace(line); json.Valid(clean) && len(clean) > 0 {
			var compact bytes.Buffer
			_ = json.Compact(&compact, clean) // it is valid
			out.Write(b.value(nil, compact.Bytes(), "", false, 0))
		} else {
			out.WriteString(b.text(string(clean)))
		}
		out.WriteByte('\n')
		if out.Len() > maxFile {
			break
		}
	}
	return out.Bytes()
}

func (b *bundle) json(text []byte) []byte {
	if !json.Valid(text) {
		return []byte(b.text(string(text)) + "\n")
	}
	var out bytes.Buffer
	_ = json.Indent(&out, b.value(nil, text, "", false, 0), "", "  ") // it is valid
	return append(out.Bytes(), '\n')
}

// value appends what is left of a JSON value; strange says that others have written what is in it.
func (b *bundle) value(out, raw []byte, key string, strange bool, depth int) []byte {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || depth > maxDepth {
		return append(out, "null"...)
	}
	switch raw[0] {
	case '"':
		var s string
		_ = json.Unmarshal(raw, &s)
		return appendString(out, b.member(key, s, strange))
	case '{', '[':
	default:
		return append(out, raw...)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	_, _ = d.Token()
	out = append(out, raw[0])
	for i := 0; d.More(); i++ {
		if i > 0 {
			out = append(out, ',')
		}
		in, about := key, strange
		if raw[0] == '{' {
			t, err := d.Token()
			name, ok := t.(string)
			if err != nil || !ok {
				break
			}
			in, about = name, strange || slices.Contains(strangeKeys, name)
			out = append(appendString(out, b.text(name)), ':')
		}
		var element json.RawMessage
		if d.Decode(&element) != nil {
			break
		}
		out = b.value(out, element, in, about, depth+1)
	}
	return append(out, raw[0]+2) // the bracket that closes it
}

func appendString(out []byte, s string) []byte {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string can always be encoded
	return append(out, bytes.TrimSpace(text.Bytes())...)
}
