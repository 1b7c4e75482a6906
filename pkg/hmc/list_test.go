package hmc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// An answer that is slow but goes on is waited for, within a limit; one that stops is not, nor is any other operation's.
func TestSlowAnswers(t *testing.T) {
	certs := httptest.NewTLSServer(http.NotFoundHandler())
	roots := x509.NewCertPool()
	roots.AddCert(certs.Certificate())
	serverTLS := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: certs.TLS.Certificates}
	certs.Close()

	log := func(ctx context.Context, s *Session) (int, error) {
		entries, err := s.GetAuditLog(ctx, time.Time{}, time.Time{})
		return len(entries), err
	}
	for _, tc := range []struct {
		name    string
		first   time.Duration // until the answer begins
		pause   time.Duration // before each element
		n       int           // elements
		get     func(context.Context, *Session) (int, error)
		took    time.Duration
		problem string
	}{
		{name: "goes on", first: 25 * time.Second, pause: 25 * time.Second, n: 10, get: log, took: 275 * time.Second},
		{name: "messages go on", first: 25 * time.Second, pause: 25 * time.Second, n: 10, took: 275 * time.Second, get: func(ctx context.Context, s *Session) (int, error) {
			messages, err := s.ListOSMessages(ctx, "/api/partitions/p1", -1)
			return len(messages), err
		}},
		{name: "goes on for ever", pause: 25 * time.Second, n: 1000, get: log, took: 5 * time.Minute, problem: "no end of the answer within 5m0s"},
		{name: "does not begin", first: time.Hour, get: log, took: 30 * time.Second, problem: "nothing of the answer within 30s"},
		{name: "stops", first: 20 * time.Second, pause: time.Hour, n: 2, get: log, took: 50 * time.Second, problem: "nothing of the answer within 30s"},
		{name: "another operation", pause: 25 * time.Second, n: 2, took: 30 * time.Second, problem: "no answer within 30s", get: func(ctx context.Context, s *Session) (int, error) {
			return 0, s.Ping(ctx)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, err := New(Options{
					Hosts: []string{"127.0.0.1"}, TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
					Dial: func(context.Context, string, string) (net.Conn, error) {
						client, server := net.Pipe()
						go serveSlowly(tls.Server(server, serverTLS), tc.first, tc.pause, tc.n)
						return client, nil
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				defer time.Sleep(2 * time.Hour) // both ends notice that it is over
				defer c.Close()
				start := time.Now()
				n, err := tc.get(t.Context(), c.Resume(testToken, testCredential))
				if took := time.Since(start); took != tc.took {
					t.Errorf("took %v, want %v", took, tc.took)
				}
				if tc.problem == "" {
					if n != tc.n || err != nil {
						t.Errorf("%d elements, %v", n, err)
					}
					return
				}
				var e *ConnectError
				if !errors.As(err, &e) || e.Reason != ReasonTimeout || !strings.Contains(err.Error(), tc.problem) {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

// serveSlowly answers one request with an array, in chunks.
func serveSlowly(conn net.Conn, first, pause time.Duration, n int) {
	defer conn.Close()
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
		return
	}
	go func() { _, _ = io.Copy(io.Discard, conn) }() // a pipe has no buffer: who closes the connection would wait
	time.Sleep(first)
	out := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\n[\r\n"
	separator := ""
	for range n {
		if _, err := io.WriteString(conn, out); err != nil {
			return
		}
		time.Sleep(pause)
		element := separator + `{"a":1}`
		out, separator = fmt.Sprintf("%x\r\n%s\r\n", len(element), element), ","
	}
	_, _ = io.WriteString(conn, out+"1\r\n]\r\n0\r\n\r\n")
}

// The elements are parts of the answer, and appending to one changes no other.
func TestListShares(t *testing.T) {
	data := []byte(` {"os-messages": [{"a":1},{"b":2}] }`)
	l := list{member: "os-messages"}
	if err := l.decode(data); err != nil || len(l.elements) != 2 {
		t.Fatalf("%q, %v", l.elements, err)
	}
	if &l.elements[0][0] != &data[bytes.IndexByte(data, '[')+1] {
		t.Error("the first element is a copy")
	}
	_ = append(l.elements[0], "xxx"...)
	if string(l.elements[1]) != `{"b":2}` {
		t.Errorf("the second element is %s", l.elements[1])
	}
}

// The scanner and encoding/json agree on any input.
func FuzzList(f *testing.F) {
	for _, s := range []string{
		"", " \n", "null", "[", "[]", " [ ] ", `[{}]`, `[ {"a":"\"]}"} , {"b":[1,{"c":null}]}]`, `[1]`, `[{},[]]`, `[{},{]`,
		`{"os-messages":[{"a":1}],"x":[]}`, `{"x":[{}],"os-messages":[{"a":1}]}`, `{"x":[{}]}`, `{"x":[],"y":[]}`, `{}`, `{"a":1}`, `{"os-messages":null}`,
		`{"@@implementation-errors":[{}],"y":[{}]}`, `{"a" : true , "b":-1.5e3,"c":"\\","d" :[ {"x":""} ] }`, `{"a":{"os-messages":[{}]}}`, "[{}]\x00",
		`{"os\u002dmessages":[{"a":1}]}`, "[{\"a\":\"\xff\"}]",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l := list{member: "os-messages"}
		err := l.decode(data)
		want, ok := slowList(data, l.member)
		if ok != (err == nil) {
			t.Fatalf("%q: %v, encoding/json: %v", data, err, ok)
		}
		if ok && !slices.EqualFunc(l.elements, want, func(a []byte, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
			t.Fatalf("%q: %q, encoding/json: %q", data, l.elements, want)
		}
	})
}

// slowList is list.decode by means of encoding/json.
func slowList(data []byte, member string) (elements []json.RawMessage, ok bool) {
	if len(bytes.Trim(data, " \t\r\n")) == 0 {
		return nil, true
	}
	if !json.Valid(data) {
		return nil, false
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	start, err := dec.Token()
	if err != nil {
		return nil, false
	}
	array := data
	switch start {
	case json.Delim('['):
	case json.Delim('{'):
		var arrays []json.RawMessage
		named := false
		for dec.More() && !named {
			before := dec.InputOffset()
			if _, err := dec.Token(); err != nil {
				return nil, false
			}
			name := string(bytes.TrimLeft(data[before:dec.InputOffset()], ", \t\r\n")) // as it stands: an escaped one is not known
			var value json.RawMessage
			if err := dec.Decode(&value); err != nil {
				return nil, false
			}
			if value[0] != '[' || strings.HasPrefix(name, `"@@`) {
				continue
			}
			if named = name == `"`+member+`"`; named {
				arrays = nil
			}
			arrays = append(arrays, value)
		}
		if len(arrays) != 1 {
			return nil, false
		}
		array = arrays[0]
	default:
		return nil, false
	}
	if json.Unmarshal(array, &elements) != nil {
		return nil, false
	}
	for _, e := range elements {
		if e[0] != '{' {
			return nil, false
		}
	}
	return elements, true
}

func BenchmarkList(b *testing.B) {
	entry := `{"event-time":1700000000000,"event-id":"1941","event-name":"WebServicesLogon","event-message":"User hmcuser has logged on to Web Services API session Sx9feb3000 from location 10.0.0.1",` +
		`"userid":"hmcuser","user-uri":"/api/users/9feb3000","event-data-items":[{"data-item-number":0,"data-item-type":"string","data-item-value":"hmcuser"}],"event-details":[]}`
	data := []byte("[" + strings.Repeat(entry+",", 9999) + entry + "]")
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		var l list
		if err := l.decode(data); err != nil || len(l.elements) != 10000 {
			b.Fatal(len(l.elements), err)
		}
	}
}
