package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// A file larger than its limit is not the kind of file it should be.
const (
	maxConfigFile = 4 * mib
	maxCAFile     = 4 * mib
	maxSecretFile = 64 * kib
)

// Load reads and validates a configuration file. The Config it returns has all defaults, secrets
// and CA certificates filled in. The error is an [Errors] with every problem of the file.
func Load(path string) (*Config, error) {
	c, _, err := Check(path)
	return c, err
}

// Check is Load, and returns the warnings of a file with errors too.
func Check(path string) (*Config, Errors, error) {
	data, mode, err := readFile(path, maxConfigFile)
	if err != nil {
		return nil, nil, Errors{{File: path, Msg: err.Error()}}
	}
	return parse(path, data, mode)
}

// parse is Check for a file that has been read. Its mode shows who else can read the secrets in it.
func parse(path string, data []byte, mode fs.FileMode) (*Config, Errors, error) {
	d := newDecoder(path, mode)
	c := &Config{File: path}
	c.setDefaults()
	if root := d.document(data); root != nil {
		d.decode(root, "", reflect.ValueOf(c).Elem())
	}
	// no further errors for a file that is no YAML
	if len(d.errs) == 0 || d.nodes > 0 {
		d.validate(c)
	}
	d.warnings.sort(path)
	if len(d.errs) > 0 {
		d.errs.sort(path)
		return nil, d.warnings, d.errs
	}
	c.Warnings = d.warnings
	return c, d.warnings, nil
}

// document returns the root node of the only document of a file; nil: the file is empty, or has
// been reported.
func (d *decoder) document(data []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if err = dec.Decode(&second); errors.Is(err, io.EOF) {
			return doc.Content[0]
		}
	}
	if err == nil {
		d.fail(second.Line, "", "a second YAML document begins here: remove the line \"---\"")
	} else {
		d.syntax(data, err)
	}
	return nil
}

// yamlLine finds the line in an error of the YAML library.
var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// syntaxErrors says what to do about errors of the YAML library that people often make. Its texts
// hold nothing of the file but the name of an anchor, which may be a password without its quotes:
// that text is replaced as a whole.
var syntaxErrors = map[string]string{
	"mapping values are not allowed in this context": "a value that holds \": \" must be in quotes, " +
		"and keys of one mapping in one column",
	"found character that cannot start any token": "do not indent with tabs, " +
		"and put a value that begins with @, ` or % into quotes",
	"found a tab character that violates indentation": "indent with spaces",
	"found unknown escape character":                  "write a backslash in double quotes twice, or use single quotes",
	"found unexpected end of stream":                  "a quote is not closed",
	"could not find expected ':'": "a key is not followed by \": \", " +
		"or a value goes on in a line that is not indented",
	"did not find expected ',' or ']'":    "a list in brackets is not closed",
	"did not find expected ',' or '}'":    "a mapping in braces is not closed",
	"did not find expected '-' indicator": "the entries of a list must begin in one column",
	"did not find expected key": "check the indentation, " +
		"and put quotes around a value that goes on after a closing quote",
}

var (
	// parserErrors are those with lines counted from 0; the library's scanner counts from 1.
	parserErrors = regexp.MustCompile(`^did not find expected ('[,-]|key|<document start>|node content)|` +
		`^found (undefined tag handle|incompatible YAML document|duplicate %)`)
	// blockErrors come with the line in which the list or mapping begins, not with the line
	// that is wrong in it.
	blockErrors = regexp.MustCompile(`^did not find expected ('-' indicator|key)$`)
)

// syntax reports an error of the YAML library.
func (d *decoder) syntax(data []byte, err error) {
	text := err.Error()
	line := 1
	m := yamlLine.FindStringSubmatch(text)
	text = strings.TrimPrefix(text, m[0])
	if n, err := strconv.Atoi(m[1]); err == nil {
		line = n
		if parserErrors.MatchString(text) {
			line++
		}
	}
	if name, ok := strings.CutPrefix(text, "unknown anchor '"); ok {
		name = strings.TrimSuffix(name, "' referenced")
		d.fail(lineWith(data, "*"+name), "", "not valid YAML: put a value that begins with * into quotes")
		return
	}
	switch {
	case m[1] == "":
		line = max(line, invalidLine(data))
	case blockErrors.MatchString(text):
		line = firstLineOf(data, text, line)
	case strings.Contains(text, "tab character"):
		line = tabLine(data, line)
	}
	if do := syntaxErrors[text]; do != "" {
		text += ": " + do
	}
	d.fail(min(line, 1+bytes.Count(data, []byte("\n"))), "", "not valid YAML: %s", text)
}

// firstLineOf returns the line that makes the YAML library give an error: with it the beginning of
// the file gives the error, without it not.
func firstLineOf(data []byte, text string, from int) int {
	lines := bytes.SplitAfter(data, []byte("\n"))
	from = min(from, len(lines))
	return from + sort.Search(len(lines)-from, func(i int) bool {
		var n yaml.Node
		err := yaml.Unmarshal(bytes.Join(lines[:from+i], nil), &n)
		return err != nil && strings.HasSuffix(err.Error(), text)
	})
}

// tabLine returns the first line from the given one that is indented with a tab.
func tabLine(data []byte, from int) int {
	for i, l := range bytes.Split(data, []byte("\n")) {
		indent := l[:len(l)-len(bytes.TrimLeft(l, " \t"))]
		if i+1 >= from && bytes.ContainsRune(indent, '\t') {
			return i + 1
		}
	}
	return from
}

// lineWith returns the first line that contains text.
func lineWith(data []byte, text string) int {
	return 1 + bytes.Count(data[:max(bytes.Index(data, []byte(text)), 0)], []byte("\n"))
}

// invalidLine returns the first line with a byte that YAML does not allow, else 1.
func invalidLine(data []byte) int {
	line := 1
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		switch {
		case r == '\n':
			line++
		case r == utf8.RuneError && n == 1, r < ' ' && r != '\t' && r != '\r', r == 0x7f:
			return line
		}
		i += n
	}
	return 1
}

// readFile reads a regular file of a limited size. Its errors go on after the name of the file.
func readFile(path string, limit int64) ([]byte, fs.FileMode, error) {
	// Opening a named pipe would wait for a writer, hence the look first.
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, 0, unreadable(err)
	case !info.Mode().IsRegular():
		return nil, 0, errors.New("is not a regular file")
	case info.Size() > limit:
		return nil, 0, fmt.Errorf("is larger than %s", Size(limit))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, 0, unreadable(err)
	}
	return data, info.Mode(), nil
}

// unreadable leaves only the reason of a file error: the name of the file stands before it, that of
// the system call is noise.
func unreadable(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return fmt.Errorf("cannot be read: %w", err)
}

// resolve makes a path of the file absolute, and also returns it as errors should show it: relative
// where the configuration file was named by a relative path.
func (d *decoder) resolve(path string) (absolute, shown string) {
	shown = path
	if !filepath.IsAbs(path) {
		shown = filepath.Join(filepath.Dir(d.file), path)
	}
	absolute, err := filepath.Abs(shown)
	if err != nil { // the working directory is gone
		return shown, shown
	}
	return absolute, shown
}

// Strict reads YAML into what v points to. An unknown key is an error, and so is a second document,
// which would not be read.
func Strict(data []byte, v any) error {
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	err := d.Decode(v)
	if second := new(yaml.Node); err == nil {
		if err = d.Decode(second); err == nil {
			err = fmt.Errorf("line %d: a second YAML document begins here: remove the line \"---\"", second.Line)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
