package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
)

const schemaFile = "../../docs/schema.json"

// TestSchemaReference makes docs/schema.json of the types, their comments and their defaults, and compares. With
// HMCNOTIFYD_WRITE_DOCS, as "make docs" sets it, it writes the file.
func TestSchemaReference(t *testing.T) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(newSchema(t)); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("HMCNOTIFYD_WRITE_DOCS") != "" {
		if err := os.WriteFile(schemaFile, text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, text.Bytes()) {
		t.Error("docs/schema.json is not what the code says: run make docs, and look at what changed")
	}
}

type object = map[string]any

// configSchema makes a JSON Schema of the types of a configuration.
type configSchema struct {
	docs *reference
	defs object
}

func newSchema(t *testing.T) object {
	t.Helper()
	s := &configSchema{docs: newReference(t), defs: object{}}
	root := s.mapping(reflect.TypeFor[Config](), withDefaults(reflect.TypeFor[Config]()))
	maps.Copy(root, object{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"$id":     "https://raw.githubusercontent.com/hmcnotifyd/hmcnotifyd/main/docs/schema.json",
		"title":   "Configuration of hmcnotifyd", "type": "object", "$defs": s.defs,
	})
	return root
}

// A number or a date is a text too: passwords look like everything.
func anyText() object { return object{"type": []any{"string", "number", "boolean"}} }

func oneOrMany(of object) object {
	return object{"anyOf": []any{of, object{"type": "array", "items": of, "minItems": 1}}}
}

// of is what a value of a type may be in a file.
func (s *configSchema) of(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return object{"anyOf": []any{object{"type": "string", "pattern": `^([0-9.]+(ns|us|µs|μs|ms|s|m|h|d|w))+$|^0$`}, object{"const": 0}}}
	case reflect.TypeFor[Size]():
		return object{"anyOf": []any{object{"type": "string", "pattern": `^[0-9.]+ *([KMGT]i)?B?$`}, object{"type": "integer", "minimum": 0}}}
	case reflect.TypeFor[match.Patterns](), reflect.TypeFor[match.Search]():
		return oneOrMany(anyText())
	case reflect.TypeFor[SeverityTable]():
		return object{"type": []any{"object", "null"}, "additionalProperties": object{"enum": words(event.Severities())}}
	case reflect.TypeFor[HTTPConfig]():
		return s.reference(reflect.TypeFor[promconfig.HTTPClientConfig]())
	case reflect.TypeFor[Secret](), reflect.TypeFor[URL](), reflect.TypeFor[match.Pattern](), reflect.TypeFor[promconfig.Secret](),
		reflect.TypeFor[promconfig.URL](), reflect.TypeFor[promconfig.TLSVersion](), reflect.TypeFor[*regexp.Regexp]():
		return anyText()
	case reflect.TypeFor[*promconfig.Headers](), reflect.TypeFor[promconfig.ProxyHeader]():
		return object{"type": []any{"object", "null"}}
	}
	switch t.Kind() {
	case reflect.String:
		return anyText()
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int:
		return object{"type": "integer"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.Struct:
		return s.reference(t)
	case reflect.Slice:
		return object{"type": []any{"array", "null"}, "items": s.of(t.Elem())}
	case reflect.Map:
		return object{"type": []any{"object", "null"}, "additionalProperties": s.of(t.Elem())}
	}
	return object{}
}

func words(list []string) (all []any) {
	for _, w := range list {
		all = append(all, w)
	}
	return all
}

// reference is a type with a name, which is described once.
func (s *configSchema) reference(t reflect.Type) object {
	name := t.Name()
	if _, ok := s.defs[name]; !ok {
		s.defs[name] = object{} // it may hold itself
		s.defs[name] = s.mapping(t, withDefaults(t))
	}
	return object{"$ref": "#/$defs/" + name}
}

// mapping describes a struct with defaults.
func (s *configSchema) mapping(t reflect.Type, defaults any) object {
	properties := object{}
	s.properties(properties, t, reflect.ValueOf(defaults).Elem())
	return object{"type": []any{"object", "null"}, "additionalProperties": false, "properties": properties}
}

func (s *configSchema) properties(to object, t reflect.Type, defaults reflect.Value) {
	for f := range t.Fields() {
		if isInline(f) {
			s.properties(to, f.Type, defaults.FieldByIndex(f.Index))
			continue
		}
		key := keyOf(f)
		if key == "" {
			continue
		}
		p := s.of(f.Type)
		if values := s.values(t, f); values != nil {
			p = object{"enum": values}
		}
		doc := s.docs.prose(key, t, s.docs.fields[t.Name()+"."+f.Name])
		if doc = strings.ReplaceAll(doc, "`", ""); doc != "" {
			p["description"] = doc
		}
		if value := strings.Trim(defaultOf(defaults.FieldByIndex(f.Index)), "`"); value != "" {
			var parsed any
			if yaml.Unmarshal([]byte(value), &parsed) == nil {
				p["default"] = plain(parsed)
			}
		}
		to[key] = p
	}
}

// values are those of a key that has only some.
func (s *configSchema) values(t reflect.Type, f reflect.StructField) (all []any) {
	if f.Type.Kind() != reflect.String || (t == reflect.TypeFor[Log]() && f.Name == "Output") {
		return nil
	}
	if t == reflect.TypeFor[Rule]() && f.Name == "Severity" {
		return words(event.Severities())
	}
	if partly := []string{"Kafka.Compression", "Syslog.Format"}; slices.Contains(partly, t.Name()+"."+f.Name) {
		return nil // they share values with other sinks, which stand there
	}
	for value := range strings.SplitSeq(s.docs.values[t.Name()+"."+f.Name], ", ") {
		if value = strings.Trim(value, "`"); value != "" {
			all = append(all, value)
		}
	}
	return all
}

// plain makes of what YAML has read what JSON knows.
func plain(v any) any {
	switch v := v.(type) {
	case time.Time:
		return v.Format(time.RFC3339)
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plain(v[k])
		}
	case map[any]any:
		m := object{}
		for k, e := range v {
			m[fmt.Sprint(k)] = plain(e)
		}
		return m
	}
	return v
}

// The schema takes each file that the program takes, and refuses what it can know: wrong types and unknown keys.
func TestSchemaFitsTheFiles(t *testing.T) {
	compiler := jsonschema.NewCompiler()
	data, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err == nil {
		err = compiler.AddResource("schema.json", doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	validate := func(file string) (problem error, readable bool) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if yaml.Unmarshal(bytes.TrimPrefix(text, []byte("\ufeff")), &v) != nil {
			return nil, false
		}
		return compiled.Validate(plain(v)), true
	}
	good, _ := filepath.Glob("testdata/good/*.yaml")
	for _, file := range append(good, exampleFile) {
		if err, readable := validate(file); err != nil || !readable {
			t.Errorf("%s: %v", file, err)
		}
	}
	known := regexp.MustCompile(`(?m): (unknown key|must be (a list|true or false|a whole number|a number|a duration|a size|a mapping)|must hold keys of its own)`)
	merged := regexp.MustCompile(`<<|!!|: \*`)
	goldens, _ := filepath.Glob("testdata/bad/*.err")
	refused := 0
	for _, golden := range goldens {
		text, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		file := strings.TrimSuffix(golden, ".err") + ".yaml"
		source, err := os.ReadFile(file)
		if err != nil || merged.Match(source) || !known.Match(text) {
			continue
		}
		if problem, readable := validate(file); readable && problem == nil {
			t.Errorf("%s: the schema takes it\n%s", file, text)
		}
		refused++
	}
	if refused < 10 {
		t.Errorf("only %d bad files were tried", refused)
	}
}
