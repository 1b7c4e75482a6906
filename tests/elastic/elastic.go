// Package elastic is a judge for tests: a server that answers bulk requests as Elasticsearch and
// OpenSearch document it.
//
// Each rule has the address it comes from:
//
// [bulk]: https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk
// [streams]: https://www.elastic.co/docs/manage-data/data-store/data-streams/use-data-stream
// [names]: https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-indices-create
// [conventions]: https://www.elastic.co/docs/reference/elasticsearch/rest-apis/common-options
// [keys]: https://www.elastic.co/docs/api/doc/elasticsearch/authentication
// [opensearch]: https://docs.opensearch.org/latest/api-reference/document-apis/bulk/
// [flood]: https://github.com/elastic/elasticsearch/issues/49393, 429 since 7.6; 403 before, as
// https://github.com/mitodl/micromasters/issues/4612 shows it
package elastic

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/httpbody"
)

// Settings are what an administrator sets, or what happens to a cluster.
type Settings struct {
	// OpenSearch says that it is one.
	OpenSearch bool
	// Userid and Password are of the only user, APIKey is another way to log on; none: all may.
	Userid, Password, APIKey string
	// Forbidden are the names of indexes that this user may not write to.
	Forbidden []string
	// Streams are the data streams that templates make; by default those that begin with "logs-".
	Streams []string
	// NoAutoCreate says that an index must be there before anything is written to it, and Indexes
	// are those that are.
	NoAutoCreate bool
	Indexes      []string
	// FloodStage says that a disk is too full to write: status 429, or 403 as of older versions.
	FloodStage int
	// ShardLimit says that the cluster takes no further index.
	ShardLimit bool
	// Refuse says of a document that it does not fit the mapping, besides those that do not.
	Refuse func(Document) bool
	// Overloaded says of an event that the queue of its shard is full.
	Overloaded func(id string) bool
	// Busy says that the cluster answers no request: 429 or 503.
	Busy int
	// MaxContentLength is http.max_content_length; 0: 100 MiB.
	MaxContentLength int64
	// Count says that documents are only counted.
	Count bool
}

// Document is one that is stored.
type Document struct {
	Index, ID string
	Source    json.RawMessage
}

// Server is a cluster: an http.Handler.
type Server struct {
	mu        sync.Mutex
	settings  Settings
	documents []Document
	indexes   map[string]*index
	requests  int
	stored    int
}

type index struct {
	ids map[string]bool
	// kinds is what the mapping has made of each field, by its path.
	kinds map[string]string
}

// New makes a cluster.
func New(settings Settings) *Server {
	return &Server{settings: settings, indexes: make(map[string]*index)}
}

// Change changes the settings.
func (s *Server) Change(change func(*Settings)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.settings)
}

// Documents returns what is stored, in the order in which it came.
func (s *Server) Documents() []Document {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.documents)
}

// Counts returns how many documents are stored, and how many bulk requests there were.
func (s *Server) Counts() (documents, requests int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stored, s.requests
}

// failure is an error as both write it.
type failure struct {
	status       int
	kind, reason string
	cause        *failure
}

func (f *failure) object() map[string]any {
	o := map[string]any{"type": f.kind, "reason": f.reason}
	if f.cause != nil {
		o["caused_by"] = f.cause.object()
	}
	return o
}

func fail(status int, kind, format string, args ...any) *failure {
	return &failure{status: status, kind: kind, reason: fmt.Sprintf(format, args...)}
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.settings.OpenSearch {
		// Clients of Elastic look for it:
		// https://www.elastic.co/docs/release-notes/elasticsearch/clients/go
		w.Header().Set("X-Elastic-Product", "Elasticsearch")
	}
	answer := func(status int, body any) {
		w.Header().Set("Content-Type", s.answerType(r))
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	refuse := func(f *failure) {
		o := f.object()
		o["root_cause"] = []any{f.object()}
		answer(f.status, map[string]any{"error": o, "status": f.status})
	}
	target, isBulk := strings.CutSuffix(strings.Trim(r.URL.Path, "/"), "_bulk")
	target = strings.Trim(target, "/")
	switch {
	case !s.authenticated(r):
		if s.settings.OpenSearch { // its security plugin answers plain text
			w.Header().Set("WWW-Authenticate", `Basic realm="OpenSearch Security"`)
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, "Unauthorized")
			return
		}
		w.Header().Set("WWW-Authenticate", `ApiKey, Basic realm="security", charset="UTF-8"`)
		refuse(fail(http.StatusUnauthorized, "security_exception", "unable to authenticate user for REST request [%s]", r.URL.Path))
	case s.settings.Busy != 0:
		kind := map[bool]string{true: "es_rejected_execution_exception", false: "cluster_block_exception"}
		refuse(fail(s.settings.Busy, kind[s.settings.Busy == http.StatusTooManyRequests], "rejected"))
	case r.URL.Path == "/" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		answer(http.StatusOK, s.info())
	case !isBulk || strings.Contains(target, "/"):
		answer(http.StatusBadRequest, map[string]any{
			"error": fmt.Sprintf("no handler found for uri [%s] and method [%s]", r.URL.Path, r.Method), "status": http.StatusBadRequest,
		})
	case r.Method != http.MethodPost && r.Method != http.MethodPut:
		answer(http.StatusMethodNotAllowed, map[string]any{"error": "Incorrect HTTP method", "status": http.StatusMethodNotAllowed})
	default:
		s.requests++
		body, f := s.bulk(r, target)
		if f != nil {
			refuse(f)
			return
		}
		answer(http.StatusOK, filtered(body, r.URL.Query().Get("filter_path")))
	}
}

func (s *Server) info() map[string]any {
	if s.settings.OpenSearch {
		return map[string]any{
			"name": "node-1", "cluster_name": "judge", "cluster_uuid": "u", "tagline": "The OpenSearch Project: https://opensearch.org/",
			"version": map[string]any{"distribution": "opensearch", "number": "3.3.0"},
		}
	}
	return map[string]any{
		"name": "node-1", "cluster_name": "judge", "cluster_uuid": "u", "tagline": "You Know, for Search",
		"version": map[string]any{"number": "9.2.0", "build_flavor": "default"},
	}
}

// authenticated says whether a request shows who it is from: [keys].
func (s *Server) authenticated(r *http.Request) bool {
	if s.settings.Password == "" && s.settings.APIKey == "" {
		return true
	}
	if userid, password, ok := r.BasicAuth(); ok {
		return s.settings.Password != "" && userid == s.settings.Userid && password == s.settings.Password
	}
	key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "ApiKey ")
	return ok && s.settings.APIKey != "" && key == s.settings.APIKey && !s.settings.OpenSearch
}

// compatible says whether a content type is that of a client of a version of Elasticsearch, which
// OpenSearch does not know.
func (s *Server) compatible(media string) bool {
	return !s.settings.OpenSearch && (media == "application/vnd.elasticsearch+json" || media == "application/vnd.elasticsearch+x-ndjson")
}

func (s *Server) answerType(r *http.Request) string {
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Accept")); s.compatible(media) {
		return r.Header.Get("Accept")
	}
	return "application/json"
}

// bulk answers a bulk request: [bulk], [opensearch].
func (s *Server) bulk(r *http.Request, target string) (map[string]any, *failure) {
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if media != "application/json" && media != "application/x-ndjson" && !s.compatible(media) {
		return nil, fail(http.StatusNotAcceptable, "media_type_header_exception", "Content-Type header [%s] is not supported", media)
	}
	body, err := httpbody.Read(r, cmp.Or(s.settings.MaxContentLength, 100<<20))
	switch {
	case errors.Is(err, httpbody.ErrTooLarge):
		return nil, fail(http.StatusRequestEntityTooLarge, "content_too_long", "Request Entity Too Large")
	case err != nil:
		return nil, fail(http.StatusBadRequest, "parse_exception", "%v", err)
	case len(body) == 0:
		return nil, fail(http.StatusBadRequest, "parse_exception", "request body is required")
	case body[len(body)-1] != '\n':
		return nil, fail(http.StatusBadRequest, "illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")
	}
	items, failed := []any{}, false
	lines := bytes.Split(body[:len(body)-1], []byte{'\n'})
	for i := 0; i < len(lines); i += 2 {
		var action map[string]struct {
			Index string `json:"_index"`
			ID    string `json:"_id"`
		}
		if json.Unmarshal(lines[i], &action) != nil || len(action) != 1 {
			return nil, fail(http.StatusBadRequest, "illegal_argument_exception",
				"Malformed action/metadata line [%d], expected START_OBJECT or END_OBJECT but found [VALUE_STRING]", i+1)
		}
		for verb, meta := range action {
			if verb != "create" && verb != "index" || i+1 == len(lines) {
				return nil, fail(http.StatusBadRequest, "illegal_argument_exception",
					"Malformed action/metadata line [%d], expected field [create], [delete], [index] or [update] but found [%s]", i+1, verb)
			}
			if len(meta.ID) > 512 {
				return nil, fail(http.StatusBadRequest, "action_request_validation_exception",
					"Validation Failed: 1: id [%s] is too long, must be no longer than 512 bytes but was: %d;", meta.ID, len(meta.ID))
			}
			name := target
			if meta.Index != "" {
				name = meta.Index
			}
			item := map[string]any{"_index": name, "_id": meta.ID}
			status, f := s.store(verb, name, meta.ID, lines[i+1])
			if f != nil {
				failed = true
				status, item["error"] = f.status, f.object()
			} else {
				item["result"], item["_version"] = "created", 1
			}
			item["status"] = status
			items = append(items, map[string]any{verb: item})
		}
	}
	// In the order of the request: [bulk], "Response body".
	return map[string]any{"took": 1, "errors": failed, "items": items}, nil
}

// isStream says whether a name is that of a data stream: those of Elasticsearch that begin with
// "logs-" it makes by itself, OpenSearch has no template of its own.
func (s *Server) isStream(name string) bool {
	return slices.Contains(s.settings.Streams, name) || !s.settings.OpenSearch && strings.HasPrefix(name, "logs-")
}

// store stores a document, and returns its status.
func (s *Server) store(verb, name, id string, source []byte) (int, *failure) {
	x := s.indexes[name]
	switch {
	case slices.Contains(s.settings.Forbidden, name):
		return 0, fail(http.StatusForbidden, "security_exception",
			"action [indices:data/write/bulk[s]] is unauthorized for user [%s] on indices [%s]", s.settings.Userid, name)
	case s.settings.FloodStage != 0:
		word := map[bool]string{true: "TOO_MANY_REQUESTS", false: "FORBIDDEN"}[s.settings.FloodStage == http.StatusTooManyRequests]
		return 0, fail(s.settings.FloodStage, "cluster_block_exception",
			"index [%s] blocked by: [%s/12/disk usage exceeded flood-stage watermark, index has read-only-allow-delete block];", name, word)
	case name != strings.ToLower(name) || strings.ContainsAny(name, `\/*?"<>| ,#:`): // [names]
		return 0, fail(http.StatusBadRequest, "invalid_index_name_exception", "Invalid index name [%s]", name)
	case x == nil && s.settings.NoAutoCreate && !slices.Contains(s.settings.Indexes, name):
		return 0, fail(http.StatusNotFound, "index_not_found_exception", "no such index [%s] and [action.auto_create_index] is [false]", name)
	case x == nil && s.settings.ShardLimit:
		return 0, fail(http.StatusBadRequest, "validation_exception",
			"Validation Failed: 1: this action would add [2] shards, but this cluster currently has [1000]/[1000] maximum normal shards open;")
	case s.settings.Overloaded != nil && s.settings.Overloaded(id):
		kind := map[bool]string{true: "rejected_execution_exception", false: "es_rejected_execution_exception"}[s.settings.OpenSearch]
		return 0, fail(http.StatusTooManyRequests, kind, "rejected execution of primary operation")
	case s.isStream(name) && verb != "create": // [streams]
		return 0, fail(http.StatusBadRequest, "illegal_argument_exception", "only write ops with an op_type of create are allowed in data streams")
	}
	if x == nil {
		x = &index{ids: make(map[string]bool), kinds: make(map[string]string)}
		s.indexes[name] = x
	}
	if verb == "create" && id != "" && x.ids[id] {
		return 0, fail(http.StatusConflict, "version_conflict_engine_exception",
			"[%s]: version conflict, document already exists (current version [1])", id)
	}
	if s.settings.Refuse != nil && s.settings.Refuse(Document{name, id, source}) {
		return 0, s.unparsable("failed to parse field [x] of type [long]", "For input string")
	}
	if !s.settings.Count {
		if f := s.parse(x, name, source); f != nil {
			return 0, f
		}
		s.documents = append(s.documents, Document{name, id, bytes.Clone(source)})
	}
	x.ids[id] = true
	s.stored++
	return http.StatusCreated, nil
}

// unparsable is what is said of a document that cannot be stored.
func (s *Server) unparsable(reason, cause string) *failure {
	kind := "document_parsing_exception"
	if s.settings.OpenSearch {
		kind = "mapper_parsing_exception"
	}
	return &failure{
		status: http.StatusBadRequest, kind: kind, reason: reason, cause: fail(0, "illegal_argument_exception", "%s", cause),
	}
}

// parse holds a document against the mapping, which is what the first one with a field made of it:
// https://www.elastic.co/docs/manage-data/data-store/mapping/dynamic-field-mapping
func (s *Server) parse(x *index, name string, source []byte) *failure {
	var document map[string]any
	if err := json.Unmarshal(source, &document); err != nil {
		return s.unparsable("failed to parse", err.Error())
	}
	kinds := make(map[string]string)
	if field := kindsOf(x.kinds, kinds, "", document); field != "" {
		return s.unparsable(fmt.Sprintf("failed to parse field [%s] of type [%s]", field, x.kinds[field]), "the value is of another type")
	}
	if s.isStream(name) { // [streams]: each document has an @timestamp
		text, _ := document["@timestamp"].(string)
		if _, err := time.Parse(time.RFC3339Nano, text); err != nil {
			return s.unparsable("failed to parse field [@timestamp] of type [date]", "data stream timestamp field [@timestamp] is missing")
		}
	}
	maps.Copy(x.kinds, kinds)
	return nil
}

// kindsOf collects the kinds of the fields of an object, and returns the path of one that is of
// another kind already.
func kindsOf(known, kinds map[string]string, prefix string, object map[string]any) string {
	for name, value := range object {
		field := strings.TrimPrefix(prefix+"."+name, ".")
		list, ok := value.([]any)
		if !ok {
			list = []any{value}
		}
		for _, value := range list {
			kind := ""
			switch v := value.(type) {
			case map[string]any:
				kind = "object"
				if wrong := kindsOf(known, kinds, field, v); wrong != "" {
					return wrong
				}
			case string:
				kind = "text"
			case float64:
				kind = "long"
			case bool:
				kind = "boolean"
			default: // null
				continue
			}
			if before, ok := known[field]; ok && before != kind && (before != "text" || kind == "object") {
				return field
			}
			kinds[field] = kind
		}
	}
	return ""
}

// filtered leaves of an answer what a filter_path names: [conventions].
func filtered(body map[string]any, filter string) any {
	if filter == "" {
		return body
	}
	patterns := strings.Split(filter, ",")
	var walk func(at string, value any) (any, bool)
	walk = func(at string, value any) (any, bool) {
		if slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(strings.ReplaceAll(p, ".", "/"), at); return ok }) {
			return value, true
		}
		switch v := value.(type) {
		case map[string]any:
			out := make(map[string]any)
			for name, inner := range v {
				if left, ok := walk(strings.TrimPrefix(at+"/"+name, "/"), inner); ok {
					out[name] = left
				}
			}
			return out, len(out) > 0
		case []any:
			var out []any
			for _, inner := range v { // lists have no step of their own
				if left, ok := walk(at, inner); ok {
					out = append(out, left)
				}
			}
			return out, len(out) > 0
		}
		return nil, false
	}
	left, ok := walk("", body)
	if !ok {
		return map[string]any{}
	}
	return left
}
