package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever is in a file, Load gives a configuration or errors with lines, and shows no secret.
func FuzzParse(f *testing.F) {
	const secret = "hunter2SENTINEL"
	for _, pattern := range []string{"testdata/bad/*.yaml", "testdata/good/*.yaml", exampleFile} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatal(pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(data), "")
		}
	}
	for _, before := range []string{"*", "&a ", "!", "!!int ", "'", "\"", "\"\\", "{", "[", "{a: ", "|", "> ", "@", "%", "`", "a: ", "? ", "- ", "# ", ", ", "<<: "} {
		f.Add("", before)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text, before string) {
		if strings.ContainsAny(before, "\n\r\u0085\u2028\u2029") {
			t.Skip("the secret would stand in a line of its own, as a key")
		}
		file := filepath.Join(dir, "c.yaml")
		for _, doc := range []string{
			text,
			"hmcs:\n  - name: a\n    password: " + before + secret + "\n    hosts: [a]\n" + text,
			"hmcs:\n  - {name: a, hosts: [a], password: " + before + secret + "}\n" + text,
			"sinks:\n  - name: a\n    webhook: {url: https://h/" + secret + before + ", secret: " + before + secret + "}\n" + text,
			"sinks:\n  - name: a\n    webhook:\n      url: " + before + secret + "\n" + text,
		} {
			c, _, err := parse(file, []byte(doc), 0)
			if (c == nil) == (err == nil) {
				t.Fatalf("%v, %v", c, err)
			}
			if c != nil {
				if c.HMCs == nil || c.Sinks == nil || !equal(c, c) {
					t.Fatalf("incomplete: %+v", c)
				}
				continue
			}
			lines := 1 + strings.Count(doc, "\n") + strings.Count(doc, "\r")
			errs, ok := errors.AsType[Errors](err)
			if !ok {
				t.Fatalf("a %T", err)
			}
			for _, e := range errs {
				if e.Line < 1 || e.Line > lines || e.Msg == "" {
					t.Fatalf("line %d of %d: %v", e.Line, lines, e)
				}
			}
			if strings.Contains(err.Error(), secret) && !strings.Contains(text, secret) && !strings.Contains(before, secret) {
				t.Fatalf("the error shows the secret:\n%v\n%s", err, doc)
			}
		}
	})
}
