package hostile_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// grammar makes what an HMC says, and what it never would: well-formed, mutated, and made to hurt. It is for one goroutine.
type grammar struct {
	*rand.Rand
	uris []string // of the objects that the HMC has
}

func newGrammar(seed int, stream uint64, uris []string) *grammar {
	return &grammar{rand.New(rand.NewPCG(uint64(seed), stream)), uris}
}

func pick[T any](g *grammar, of ...T) T { return of[g.IntN(len(of))] }

// in says yes once in n times.
func (g *grammar) in(n int) bool { return g.IntN(n) == 0 }

// text is a value of a header or in JSON.
func (g *grammar) text() string {
	switch g.IntN(14) {
	case 0:
		return ""
	case 1:
		return strings.Repeat(pick(g, "x", "\u00e4", "\\", "\x01", "\u2028", "%", "{", "\""), g.IntN(2000))
	case 2:
		return pick(g, "\u009b2J\u009d0;x\a", "\u202eabc", "\u2066\u200b\ufeff\U000e0041", "\x1b[2J\x7f", "a\r\nb: c", "\x00", "\xff\xfe\xc3", "\ufffd")
	case 3:
		return pick(g, "<script>alert(1)</script>", "{{.}}", "${jndi:x}", "'; DROP TABLE x", "../../etc/passwd", "%s%n", "=1+1")
	case 4:
		return g.number()
	case 5:
		return pick(g, "null", "true", "[]", "{}", "NaN", "-0", "1e999")
	case 6, 7:
		return pick(g, g.uris...)
	default:
		return pick(g, "active", "stopped", "not-operating", "exceptions", "service-required", "operating", "no-power", "P1", "CPC1", "IXC101I test", "add", "remove", "status")
	}
}

func (g *grammar) number() string {
	return pick(g, "0", "1", "-1", "2147483647", "-2147483649", "9223372036854775807", "9223372036854775808", "1e400", "0.1",
		strconv.Itoa(g.IntN(1000)), strconv.FormatUint(g.Uint64(), 10), "1770000000000", "01", "0x10", "99999999999999999999999999999")
}

// value is any JSON value.
func (g *grammar) value(depth int) any {
	switch n := g.IntN(10); {
	case n < 4 || depth <= 0:
		return g.text()
	case n < 6:
		return json.RawMessage(pick(g, "0", "-1", "1", "9223372036854775808", "1e400", "0.1", strconv.Itoa(g.IntN(10_000))))
	case n < 7:
		return pick[any](g, nil, true, false)
	case n < 8:
		list := make([]any, g.IntN(4))
		for i := range list {
			list[i] = g.value(depth - 1)
		}
		return list
	default:
		object := map[string]any{}
		for range g.IntN(4) {
			object[g.text()] = g.value(depth - 1)
		}
		return object
	}
}

// object is a JSON object with some of the members, each a value that fits or any.
func (g *grammar) object(members ...string) any {
	object := map[string]any{}
	for _, name := range members {
		switch {
		case g.in(6): // left out
		case g.in(6):
			object[name] = g.value(3)
		case strings.HasSuffix(name, "number") || strings.HasSuffix(name, "time") || strings.HasSuffix(name, "timestamp") || strings.HasSuffix(name, "-id"):
			object[name] = json.RawMessage(strconv.Itoa(g.IntN(1000)))
		case strings.HasPrefix(name, "is-") || strings.HasPrefix(name, "has-"):
			object[name] = g.in(2)
		default:
			object[name] = g.text()
		}
	}
	return object
}

func (g *grammar) list(most int, members ...string) []any {
	list := make([]any, g.IntN(most+1))
	for i := range list {
		list[i] = g.object(members...)
	}
	return list
}

// types are those of notifications, and the members of their bodies.
var types = []string{"status-change", "property-change", "inventory-change", "job-completion", "os-message", "log-entry", "nobody-knows", ""}

// body is that of a notification.
func (g *grammar) body(typ string) []byte {
	most := 5
	if g.in(50) {
		most = 3000
	}
	var value any
	switch typ {
	case "status-change":
		value = map[string]any{"change-reports": g.list(most, "old-status", "new-status", "has-unacceptable-status", "old-additional-status", "new-additional-status")}
	case "property-change":
		value = map[string]any{"change-reports": g.list(most, "property-name", "old-value", "new-value")}
	case "os-message":
		value = map[string]any{"os-messages": g.list(most, "sequence-number", "message-id", "message-text", "timestamp", "is-refresh", "is-held", "is-priority",
			"prompt-text", "os-name", "sound-alarm")}
	case "log-entry":
		value = map[string]any{"log-entries": g.list(most, "event-id", "event-time", "event-name", "event-message", "userid", "event-data-items", "event-details")}
	case "job-completion":
		value = g.object("job-status-code", "job-reason-code", "job-results", "status")
	default:
		value = g.value(5)
	}
	data, err := json.Marshal(value)
	if err != nil {
		data = []byte(err.Error())
	}
	switch g.IntN(40) {
	case 0:
		return nil
	case 1:
		return g.mutated(data)
	case 2: // what Go would not write
		return bytes.ReplaceAll(data, []byte(`":"`), pick(g, []byte(`":"\ud800`), []byte("\":\"\xff"), []byte("\":\"\u2028"), []byte(`":"\u009b\u202e`)))
	case 3:
		depth := g.IntN(20_000)
		return fmt.Appendf(nil, `{"x":%s%s}`, strings.Repeat("[", depth), strings.Repeat("]", depth))
	case 4:
		return fmt.Appendf(nil, `{"change-reports":[%s{}]}`, strings.Repeat(pick(g, "{},", "[],", `"\u009b",`, "1e9,"), g.IntN(20_000)))
	}
	return data
}

// mutated changes some bytes.
func (g *grammar) mutated(data []byte) []byte {
	data = bytes.Clone(data)
	for range 1 + g.IntN(8) {
		if len(data) == 0 {
			return data
		}
		at := g.IntN(len(data))
		end := min(len(data), at+1+g.IntN(16))
		switch g.IntN(5) {
		case 0:
			data[at] ^= byte(1 << g.IntN(8))
		case 1:
			data = append(data[:at:at], data[end:]...)
		case 2:
			data = append(append(data[:end:end], data[at:end]...), data[end:]...)
		case 3:
			data = append(append(data[:at:at], pick(g, "\x00", "\n", "\n\n", ":", "\\", "{", "}", "\"", ",", "MESSAGE\n", "\r", "\xff", "-", "0")...), data[at:]...)
		case 4:
			if g.in(4) {
				data = data[:at]
			}
		}
	}
	return data
}

var escapes = strings.NewReplacer("\\", "\\\\", "\n", "\\n", "\r", "\\r", ":", "\\c")

// frame is one that the broker sends, to one of the subscriptions.
func (g *grammar) frame(subscriptions map[string]string) []byte {
	var out bytes.Buffer
	header := func(name, value string) {
		if !g.in(10_000) {
			name, value = escapes.Replace(name), escapes.Replace(value)
		}
		out.WriteString(name + ":" + value + "\n")
	}
	ids := slices.Sorted(maps.Keys(subscriptions)) // a seed says it all
	typ := pick(g, types...)
	body := g.body(typ)
	// What ends a link comes seldom: a new one takes a logon.
	switch n := g.IntN(1000); {
	case n < 940:
		out.WriteString("MESSAGE\n")
	case n < 980:
		out.WriteString("ERROR\n")
		header("message", g.text())
		header("receipt-id", g.text())
	case n < 998:
		return []byte(strings.Repeat("\n", g.IntN(1000)))
	case n < 999:
		return g.mutated([]byte("RECEIPT\nreceipt-id:x\n\n\x00"))
	default:
		out.WriteString(pick(g, "CONNECTED", "RECEIPT", "SEND", "message", g.text()) + "\n")
	}
	id := pick(g, ids...)
	if g.in(100) {
		id = g.text()
	}
	header("subscription", id)
	header("destination", subscriptions[id])
	header("message-id", strconv.FormatUint(g.Uint64(), 36))
	header("notification-type", typ)
	for _, name := range []string{"class", "name", "object-uri", "object-id", "element-uri", "element-id", "action", "property-names", "job-uri", "timestamp"} {
		switch {
		case g.in(4):
		case name == "class":
			header(name, pick(g, "partition", "cpc", "logical-partition", "adapter", "console", g.text()))
		case name == "object-uri":
			header(name, pick(g, g.uris...))
		case name == "action":
			header(name, pick(g, "add", "remove", g.text()))
		default:
			header(name, g.text())
		}
	}
	header("session-sequence-nr", g.number())
	header("global-sequence-nr", g.number())
	for range g.IntN(4) {
		header("x"+g.text(), g.text()) // a name is not empty
	}
	if g.in(2000) {
		header("x", strings.Repeat("x", 70_000))
	}
	switch g.IntN(1000) {
	case 0:
		header("content-length", pick(g, "-1", "x", "99999999999999999999", strconv.Itoa(5<<20), strconv.Itoa(len(body)/2)))
	case 1: // the first NUL ends it
	default:
		header("content-length", strconv.Itoa(len(body)))
	}
	out.WriteByte('\n')
	out.Write(body)
	out.WriteByte(0)
	if g.in(500) {
		return g.mutated(out.Bytes())
	}
	return out.Bytes()
}

// answer changes an answer of the Web Services API. It never refuses a password: after that an HMC is left alone for half an
// hour, and there is nothing to attack.
func (g *grammar) answer(r *http.Response, body []byte) []byte {
	switch g.IntN(25) {
	case 0:
		return g.mutated(body)
	case 1:
		return nil
	case 2:
		return []byte(pick(g, "null", "[]", "{}", "0", `"x"`, "<html>"+g.text(), strings.Repeat("[", 20_000), g.text()))
	case 3:
		r.StatusCode = pick(g, 200, 201, 202, 204, 400, 404, 409, 410, 429, 500, 502, 503, 504, 599)
		answer, _ := json.Marshal(map[string]any{"http-status": r.StatusCode, "reason": g.IntN(400), "message": g.text(), "stack": g.text()})
		return answer
	case 4, 5, 6:
		var value any
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		if d.Decode(&value) != nil {
			return body
		}
		for range 1 + g.IntN(4) {
			value = g.changed(value)
		}
		changed, err := json.Marshal(value)
		if err != nil {
			return body
		}
		return changed
	}
	return body
}

// changed changes something in a JSON value.
func (g *grammar) changed(value any) any {
	switch v := value.(type) {
	case map[string]any:
		if len(v) > 0 {
			name := pick(g, slices.Sorted(maps.Keys(v))...)
			switch g.IntN(6) {
			case 0:
				delete(v, name)
			case 1:
				v[name] = g.value(3)
			default:
				v[name] = g.changed(v[name])
			}
			return v
		}
	case []any:
		switch {
		case len(v) == 0:
			return append(v, g.value(3))
		case g.in(4):
			at := g.IntN(len(v))
			for range g.IntN(300) {
				v = append(v, v[at])
			}
		case g.in(4):
			return v[:g.IntN(len(v))]
		default:
			at := g.IntN(len(v))
			v[at] = g.changed(v[at])
		}
		return v
	}
	if g.in(2) {
		return g.value(2)
	}
	return value
}

// parameters of the web side's paths.
var parameters = []string{"since", "until", "type", "hmc", "sink", "severity", "id", "q", "all", "limit", "after", "page", "class", "status", "cpc", "name", "debug", "seconds"}

// request is one that somebody sends to the web side, as it goes over the wire.
func (g *grammar) request(host string) []byte {
	method := pick(g, "GET", "GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PRI")
	path := pick(g, "/", "/metrics", "/-/healthy", "/-/ready", "/-/reload", "/api/v1/status", "/api/v1/events", "/api/v1/dead-letters",
		"/api/v1/dead-letters/replay", "/api/v1/dead-letters/x", "/api/v1/sinks/ops/test", "/api/v1/sinks/x/test", "/api/v1/removed-hmcs/x", "/api/v1/removed-sinks/x",
		"/assets/style.css", "/debug/pprof/", "/debug/pprof/heap", "/favicon.ico", "/api/v1/", "/../../etc/passwd", "//", "/%00", "/%zz", "*", "http://x/")
	var query []string
	for range g.IntN(4) {
		value := pick(g, g.text(), g.number(), "1h", "-1h", "2026-11-20T10:00:00Z", "os-message", "status-change", ".*", "(", `(?i)\pL{0,1000}`,
			strings.Repeat("(a|b)*", g.IntN(50)), "[", "true", "east", "ops", strings.Repeat("a", g.IntN(3000)))
		var escaped strings.Builder
		for _, b := range []byte(value) {
			if g.in(100) {
				escaped.WriteByte(b)
			} else {
				fmt.Fprintf(&escaped, "%%%02x", b)
			}
		}
		query = append(query, pick(g, parameters...)+"="+escaped.String())
	}
	if len(query) > 0 {
		path += "?" + strings.Join(query, pick(g, "&", "&", "&", ";"))
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s %s %s\r\nHost: %s\r\n", method, path, pick(g, "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9.9"),
		pick(g, host, host, host, host, "localhost", "evil.example", "[::1]", "", "127.0.0.1:99999"))
	for range g.IntN(6) {
		name := pick(g, "Origin", "Referer", "Sec-Fetch-Site", "X-Forwarded-For", "Forwarded", "Last-Event-ID", "Accept", "Accept-Encoding", "Range", "If-None-Match",
			"Authorization", "Content-Type", "Cookie", "Upgrade", "Connection", "Expect", "Transfer-Encoding", "Content-Length", "X")
		value := pick(g, strings.Map(func(r rune) rune {
			if r < ' ' && !g.in(20) {
				return -1
			}
			return r
		}, g.text()), "http://evil.example", "cross-site", "same-origin", "gzip, br;q=0.1", "bytes=0-10,5-", "chunked", "100-continue", "h2c", "close", "keep-alive",
			"Basic b3BzOng=", "text/event-stream", "application/openmetrics-text", g.number())
		fmt.Fprintf(&out, "%s: %s\r\n", name, value)
	}
	var body []byte
	if g.in(3) {
		body, _ = json.Marshal(g.value(4))
		if g.in(10) {
			body = bytes.Repeat([]byte("x"), g.IntN(200_000))
		}
		fmt.Fprintf(&out, "Content-Length: %d\r\n", len(body))
	}
	out.WriteString("\r\n")
	out.Write(body)
	if g.in(5) {
		return g.mutated(out.Bytes())
	}
	return out.Bytes()
}
