package web_test

import (
	"bytes"
	"encoding"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

const openapiFile = "../../docs/openapi.yaml"

// statusAnswer is what /api/v1/status answers with.
type statusAnswer struct {
	web.Build
	Now    time.Time        `json:"now"`
	Config web.ConfigStatus `json:"config"`
	status.Status
}

// TestOpenAPIReference makes docs/openapi.yaml, and compares. With HMCNOTIFYD_WRITE_DOCS, as "make docs" sets it, it writes the file.
func TestOpenAPIReference(t *testing.T) {
	paths, err := os.ReadFile("testdata/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	g := generated{}
	for name, of := range map[string]any{
		"Status": statusAnswer{}, "Event": event.Event{}, "DeadLetterList": web.DeadLetterList{}, "Purged": web.Purged{}, "Error": web.Error{},
		"TestStep": deliver.TestStep{}, "DeadLetterReplayStep": replay.LettersStep{}, "ReplayStep": replay.Step{},
	} {
		g[name] = g.object(reflect.TypeOf(of))
	}
	var schemas bytes.Buffer
	enc := yaml.NewEncoder(&schemas)
	enc.SetIndent(2)
	if err := enc.Encode(g); err != nil {
		t.Fatal(err)
	}
	text := string(paths) + "  schemas:\n" + regexp.MustCompile(`(?m)^`).ReplaceAllString(strings.TrimSpace(schemas.String()), "    ") + "\n"
	if os.Getenv("HMCNOTIFYD_WRITE_DOCS") != "" {
		if err := os.WriteFile(openapiFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(openapiFile); err != nil || string(have) != text {
		t.Errorf("docs/openapi.yaml is not what the code says: run make docs, and look at what changed (%v)", err)
	}
}

// generated are schemas of Go types, by name.
type generated map[string]any

func (g generated) of(t reflect.Type) map[string]any {
	if t == reflect.TypeFor[time.Time]() {
		return map[string]any{"type": "string", "format": "date-time"}
	}
	if t == reflect.TypeFor[json.RawMessage]() {
		return map[string]any{}
	}
	if t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		return map[string]any{"type": "string"}
	}
	switch t.Kind() {
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint64, reflect.Int32:
		return map[string]any{"type": "integer"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Pointer:
		return g.of(t.Elem())
	case reflect.Map:
		return map[string]any{"type": []any{"object", "null"}, "additionalProperties": g.of(t.Elem())}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return map[string]any{"type": "string", "contentEncoding": "base64"}
		}
		return map[string]any{"type": []any{"array", "null"}, "items": g.of(t.Elem())}
	case reflect.Struct:
		if _, ok := g[t.Name()]; !ok {
			g[t.Name()] = nil
			g[t.Name()] = g.object(t)
		}
		return map[string]any{"$ref": "#/components/schemas/" + t.Name()}
	}
	return map[string]any{}
}

func (g generated) object(t reflect.Type) map[string]any {
	properties := map[string]any{}
	var required []string
	var add func(reflect.Type)
	add = func(t reflect.Type) {
		for f := range t.Fields() {
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			switch {
			case f.Anonymous && name == "":
				add(f.Type)
			case name == "-" || !f.IsExported() || name == "":
			default:
				properties[name] = g.of(f.Type)
				if !strings.Contains(options, "omit") {
					required = append(required, name)
				}
			}
		}
	}
	add(t)
	slices.Sort(required)
	o := map[string]any{"type": "object", "properties": properties}
	if len(required) > 0 {
		o["required"] = required
	}
	return o
}

type operation struct {
	Parameters []struct {
		Ref  string `yaml:"$ref"`
		Name string
		In   string
	}
	Responses map[string]any
}

// Each path of the API is described, and none that is not there; the parameters are those that are taken.
func TestOpenAPIFitsTheHandlers(t *testing.T) {
	text, err := os.ReadFile(openapiFile)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]operation
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	described := map[string]operation{}
	for path, methods := range doc.Paths {
		for method, o := range methods {
			described[strings.ToUpper(method)+" "+path] = o
		}
	}
	served := map[string]bool{}
	sources, _ := filepath.Glob("*.go")
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"([A-Z]+ /api/v1/[^"]*)"`).FindAllSubmatch(source, -1) {
			served[string(m[1])] = true
		}
	}
	if have, want := slices.Sorted(maps.Keys(described)), slices.Sorted(maps.Keys(served)); !slices.Equal(have, want) {
		t.Errorf("described are %q\nserved %q", have, want)
	}
	queries := func(of string) (names []string) {
		for _, p := range described[of].Parameters {
			if p.Name == "" {
				p.Name, p.In = p.Ref[strings.LastIndexByte(p.Ref, '/')+1:], "query"
			}
			if p.In == "query" && p.Name != "name" {
				names = append(names, p.Name)
			}
		}
		slices.Sort(names)
		return names
	}
	if got, want := queries("GET /api/v1/events"), slices.Sorted(slices.Values(web.LiveFilterParameters())); !slices.Equal(got, want) {
		t.Errorf("events: %q, want %q", got, want)
	}
	// Others name their parameters when they are given one that there is not.
	s := startWithBridge(t)
	for of, path := range map[string]string{
		"GET /api/v1/dead-letters": "", "DELETE /api/v1/dead-letters": "", "POST /api/v1/dead-letters/replay": "", "POST /api/v1/sinks/{name}/replay": "/api/v1/sinks/ops/replay",
	} {
		method, own, _ := strings.Cut(of, " ")
		if path == "" {
			path = own
		}
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path+"?bogus=1", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var refusal web.Error
		if err := json.NewDecoder(resp.Body).Decode(&refusal); err != nil || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d, %v", of, resp.StatusCode, err)
		}
		_ = resp.Body.Close()
		answer := refusal.Error
		_, list, ok := strings.Cut(answer, "there are: ")
		if want := slices.Sorted(slices.Values(strings.Split(list, ", "))); !ok || !slices.Equal(queries(of), want) {
			t.Errorf("%s: %q, want %q (%s)", of, queries(of), want, answer)
		}
	}
}

// The state is as it is described.
func TestStatusIsAsDescribed(t *testing.T) {
	text, err := os.ReadFile(openapiFile)
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("openapi.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("openapi.json#/components/schemas/Status")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := fetch(t, pageOf(t, 3).URL+"/api/v1/status")
	answer, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(answer); err != nil {
		t.Error(err)
	}
}
