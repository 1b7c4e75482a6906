package capture

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// classes is a text with a letter for the class of each character.
func classes(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= '0' && r <= '9':
			return '0'
		case r >= 'a' && r <= 'z':
			return 'a'
		case r >= 'A' && r <= 'Z':
			return 'A'
		case unicode.IsLetter(r):
			return 'ä'
		}
		return r
	}, s)
}

func TestWords(t *testing.T) {
	names := []string{
		"PROD-DB.01", "prod_db", "Zürich", "名前", "e12121da-c503-3117-8e79-c46bd3531b90", "A", "B", "10.1.2.3", "x💾", "a\xffb", "",
		"LOAD", "Ops", "PROD",
	}
	w := newWords()
	for _, n := range names {
		w.replace(n, true, nil)
	}
	w.noting = false
	taken := make(map[string]string)
	for _, n := range names {
		got := w.replace(n, true, nil)
		if len(got) != len(n) || strings.ToValidUTF8(classes(got), "?") != strings.ToValidUTF8(classes(n), "?") && !strings.Contains(n, "💾") {
			t.Errorf("%q became %q, of another length or other classes", n, got)
		}
		if n != "" && (got == n || taken[got] != "") {
			t.Errorf("%q became %q, as %q did", n, got, taken[got])
		}
		taken[got] = n
		if again := w.replace(n, false, nil); again != got {
			t.Errorf("%q became %q, and then %q", n, got, again)
		}
	}
	// A word that is a name is not kept, whatever it means elsewhere.
	keep := func(word string) bool { return word == "load" || word == "LOAD" || word == "stop" }
	if got := w.replace("load LOAD stop", false, keep); strings.Contains(strings.ToLower(got), "load") || !strings.HasSuffix(got, " stop") {
		t.Errorf("a sentence became %q", got)
	}
	id := w.replace(names[4], false, nil)
	if strings.Trim(id, "0123456789abcdef-") != "" {
		t.Errorf("an object id became %q", id)
	}
}

// TestWordsAreUsedUp has more words of a kind than there are others to take.
func TestWordsAreUsedUp(t *testing.T) {
	w := newWords()
	for i := range 1000 {
		w.replace(fmt.Sprintf("P %03d", i), true, nil)
	}
	w.noting = false
	taken := make(map[string]bool)
	for i := range 1000 {
		name := fmt.Sprintf("P %03d", i)
		got := w.replace(name, true, nil)
		if taken[got] || got == name {
			t.Fatalf("%q became %q, which is taken", name, got)
		}
		taken[got] = true
	}
}

const password = `s3cr<t"\pw`

// recorded is a recorder that has seen a logon, an answer that repeats the password, and a notification.
func recorded() *Recorder {
	r := NewRecorder(0)
	header := http.Header{"Content-Type": {"application/json"}, "Set-Cookie": {"id=GOLDFISH9"}, "Server": {"GOLDFISH9"}}
	exchange := func(operation, method, uri, query, sent string, status int, answer string) {
		r.Exchange(hmc.Exchange{
			Operation: operation, Method: method, URI: uri, Query: query, Sent: []byte(sent), Status: status, Header: header,
			Answer: []byte(answer), Began: time.Now(),
		})
	}
	exchange("logon", "POST", "/api/sessions", "", `{"userid":"zebra","password":"s3cr<t\"\\pw"}`, 200,
		`{"api-session":"sess1onsecret0001","notification-topic":"zebra.145","session-credential":"credent1al0002",
		 "job-notification-topic":"zebra.145job","password-expires":12,"shared-secret-key":"sharedkey0003"}`)
	exchange("get-properties", "GET", "/api/cpcs/e12121da-c503", "name=QUOKKA&properties=name,status", "", 400,
		`{"http-status":400,"reason":6,"message":"what is s3cr&lt;t&quot;\\pw? by credent1al0002 of session sess1onsecret0001"}`)
	exchange("list-cpcs", "GET", "/api/cpcs", "", "", 200,
		`{"cpcs":[{"name":"QUOKKA","status":"operating","object-uri":"/api/cpcs/e12121da-c503","GOLDFISH9":{"WOMBAT":17734}}],"secrets":{"WOMBAT":1},
		 "event-data-items":[{"data-item-number":3,"data-item-type":"long","data-item-value":88771521}],"machine-serial":88771522}`)
	r.Frame(receiver.Traffic{
		Command: Message, At: time.Now(), Headers: receiver.Headers{
			{Name: "destination", Value: "/topic/zebra.145"},
			{Name: "subscription", Value: "zebra.1"},
			{Name: "name", Value: "QUOKKA"},
			{Name: "notification-type", Value: "property-change"},
			{Name: "property-names", Value: " description GOLDFISH9 "},
			{Name: "session-sequence-nr", Value: "12"},
			{Name: "GOLDFISH9", Value: "WOMBAT"},
		},
		Body: []byte(`{"change-reports":[{"old-value":"operating","new-value":"of QUOKKA","property-name":"description"},` +
			`{"property-name":"physical-channel-status","old-value":"operating","new-value":"link-failure"}]}`),
	})
	r.Frame(receiver.Traffic{At: time.Now(), Lost: receiver.ReasonBroker})
	return r
}

func written(t *testing.T, r *Recorder, o WriteOptions) (file []byte, text string) {
	t.Helper()
	var b bytes.Buffer
	if err := r.Write(&b, o); err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(zip)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), string(plain)
}

func TestNamesAndSecretsAreOut(t *testing.T) {
	secrets := []string{password, "sess1onsecret0001", "credent1al0002", "sharedkey0003"}
	names := []string{"QUOKKA", "GOLDFISH9", "WOMBAT", "zebra", "e12121da", "17734", "88771521", "88771522"}
	for _, plain := range []bool{false, true} {
		_, text := written(t, recorded(), WriteOptions{Names: plain, Secrets: []string{password}, Program: "test"})
		for _, s := range secrets {
			if secret.New(s).In(text) {
				t.Errorf("names %v: the capture holds the secret %q:\n%s", plain, s, text)
			}
		}
		for _, n := range names {
			if has := strings.Contains(text, n); has != plain {
				t.Errorf("names %v: the capture holds the name %q: %v", plain, n, has)
			}
		}
		for _, kept := range []string{
			`"status":"operating"`, `"new-value":"link-failure"`, `"password-expires":12`, `"property-name":"physical-channel-status"`,
			`"session-sequence-nr","12"`, `"data-item-number":3,`, `"lost":"broker"`, "properties=name%2Cstatus",
		} {
			if !strings.Contains(text, kept) {
				t.Errorf("names %v: the capture lacks %s:\n%s", plain, kept, text)
			}
		}
		if strings.Contains(text, `"Server"`) || strings.Contains(text, "Set-Cookie") {
			t.Error("headers of an answer are kept")
		}
	}
}

func TestInspect(t *testing.T) {
	file, _ := written(t, recorded(), WriteOptions{Secrets: []string{password}, Program: "1.2.3"})
	var b strings.Builder
	if err := Inspect(&b, bytes.NewReader(file)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"hmcnotifyd 1.2.3", "replaced (", "secrets: none; 5 were there", "links: 1, of which the HMC or the network ended 1",
		"      1  logon: 200", "      1  property-change",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("lacks %q:\n%s", want, b.String())
		}
	}
	b.Reset()
	file, _ = written(t, recorded(), WriteOptions{Names: true})
	if err := Inspect(&b, bytes.NewReader(file)); err != nil || !strings.Contains(b.String(), "as they are") {
		t.Errorf("%v: names are not said to be there:\n%s", err, b.String())
	}
}

// TestDamagedCapture cuts a capture off at each length, and reads others that are none.
func TestDamagedCapture(t *testing.T) {
	file, text := written(t, recorded(), WriteOptions{})
	for n := range len(file) {
		err := Inspect(io.Discard, bytes.NewReader(file[:n]))
		if err == nil {
			t.Fatalf("%d bytes of %d are a whole capture", n, len(file))
		}
		if strings.Contains(err.Error(), "JSON") {
			t.Fatalf("%d bytes of %d: %v", n, len(file), err)
		}
	}
	zipped := func(text string) io.Reader {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return &b
	}
	lines := strings.SplitAfter(text, "\n")
	for in, want := range map[string]string{
		"":                                  "its first line does not say so",
		"hello\n":                           "line 1: ",
		"{}\n":                              "its first line does not say so",
		lines[0]:                            "line 2: the capture is cut off: its end is missing",
		lines[0] + "{\"kind\":\n":           "line 2: unexpected end of JSON input",
		lines[0] + "{\"kind\":\"frame\"}\n": "line 2: no entry of a capture",
		strings.Replace(text, `"version":1`, `"version":2`, 1): "the capture is of version 2, this program knows 1: take a newer one",
	} {
		if err := Inspect(io.Discard, zipped(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %s", in, err, want)
		}
	}
	if err := Inspect(io.Discard, strings.NewReader("no gzip at all")); err == nil || !strings.Contains(err.Error(), "not compressed by gzip") {
		t.Error(err)
	}
}

// TestCaptureIsBounded fills a recorder.
func TestCaptureIsBounded(t *testing.T) {
	r := NewRecorder(100 << 10)
	body := []byte(`{"text":"` + strings.Repeat("x", 1000) + `"}`)
	for range 1000 {
		r.Frame(receiver.Traffic{Command: Message, At: time.Now(), Body: body})
	}
	select {
	case <-r.Full():
	default:
		t.Fatal("it is not full")
	}
	if n, size := r.Size(); size > 100<<10 || n == 0 {
		t.Errorf("%d entries of %d bytes", n, size)
	}
	file, text := written(t, r, WriteOptions{})
	if !strings.Contains(text, `"full":true`) {
		t.Error("it does not say that it is full")
	}
	in, err := NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = in.Next()
	}
	if !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
