package capture

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
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
		`{"cpcs":[{"name":"QUOKKA","status":"operating","object-uri":"/api/cpcs/e12121da-c503","GOLDFISH9":{"WOMBAT":88771520}}],"secrets":{"WOMBAT":1},
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
	names := []string{"QUOKKA", "GOLDFISH9", "WOMBAT", "zebra", "e12121da", "88771520", "88771521", "88771522"}
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
	if err := inspected(&b, bytes.NewReader(file)); err != nil {
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
	if err := inspected(&b, bytes.NewReader(file)); err != nil || !strings.Contains(b.String(), "as they are") {
		t.Errorf("%v: names are not said to be there:\n%s", err, b.String())
	}
}

// TestDamagedCapture cuts a capture off at each length, and reads others that are none.
func TestDamagedCapture(t *testing.T) {
	file, text := written(t, recorded(), WriteOptions{})
	for n := range len(file) {
		err := inspected(io.Discard, bytes.NewReader(file[:n]))
		if err == nil {
			t.Fatalf("%d bytes of %d are a whole capture", n, len(file))
		}
		if strings.Contains(err.Error(), "JSON") {
			t.Fatalf("%d bytes of %d: %v", n, len(file), err)
		}
	}
	lines := strings.SplitAfter(text, "\n")
	entry := func(text string) string { return lines[0] + text + "\n" }
	frame := func(headers string) string {
		return entry(`{"at_us":1,"kind":"frame","frame":{"command":"MESSAGE","headers":` + headers + `}}`)
	}
	request := func(members string) string {
		return entry(`{"at_us":1,"kind":"request","request":{"operation":"x","method":"GET","uri":"/api",` + members + `}}`)
	}
	end := `{"at_us":5,"kind":"end","end":{"requests":0,"frames":0,"words":0}}`
	header := func(from, to string) string { return strings.Replace(text, from, to, 1) }
	for in, want := range map[string]string{
		"":                                      "not a capture of hmcnotifyd: its first line does not say so",
		"hello\n":                               "not a capture of hmcnotifyd: its first line does not say so",
		"{}\n":                                  "not a capture of hmcnotifyd: its first line does not say so",
		"null\n":                                "not a capture of hmcnotifyd: its first line does not say so",
		"[]\n":                                  "not a capture of hmcnotifyd: its first line does not say so",
		strings.Repeat("x", MaxLine+10):         "line 1 is longer than 5 MiB",
		lines[0]:                                "line 2: it is cut off, its end is missing: copy it once more",
		header(`"version":1`, `"version":2`):    "is of version 2, and this program knows captures up to version 1: take a newer hmcnotifyd",
		header(`"version":1`, `"version":0`):    "line 1: its version is 0,",
		header(`"version":1`, `"version":-5`):   "line 1: its version is -5,",
		header(`"version":1`, `"version":"x"`):  "line 1: version cannot be that string",
		header(`"version":1`, `"version":1e99`): "line 1: version cannot be that number",
		header(`"began":"2`, `"begun":"2`):      "line 1: it does not say when it began",
		header(`"program":"`, `"program":"`+strings.Repeat("x", 200)): "line 1: what it says of its program",
		entry(`{"kind":`):                      "line 2: it is not JSON",
		entry(``):                              "line 2: it is not JSON",
		entry(`null`):                          "line 2: it is no entry of a capture",
		entry(`{}`):                            "line 2: it is no entry of a capture",
		entry(`[]`):                            "line 2: a line cannot be that array",
		entry(`{"kind":"frame"}`):              "line 2: it is no entry of a capture",
		entry(`{"kind":"frame","frame":null}`): "line 2: it is no entry of a capture",
		entry(`{"kind":"else","frame":{"command":"MESSAGE"}}`):                                      "line 2: it is no entry of a capture",
		entry(`{"kind":"frame","link":{}}`):                                                         "line 2: it is no entry of a capture",
		entry(`{"kind":"frame","frame":{"command":"MESSAGE"},"link":{}}`):                           "line 2: it is no entry of a capture",
		entry(`{"at_us":-1,"kind":"link","link":{}}`):                                               "line 2: at_us is -1,",
		entry(`{"at_us":9223372036854775807,"kind":"link","link":{}}`):                              "line 2: at_us is 9223372036854775807,",
		entry(`{"at_us":9223372036854775808,"kind":"link","link":{}}`):                              "line 2: at_us cannot be that number",
		entry(`{"at_us":172800000001,"kind":"link","link":{}}`):                                     "line 2: at_us is 172800000001,",
		entry(`{"at_us":7,"kind":"link","link":{}}` + "\n" + `{"at_us":6,"kind":"link","link":{}}`): "line 3: at_us is 6, and was 7 before",
		entry(`{"at_us":1,"kind":"frame","frame":{}}`):                                              "line 2: the frame has no command",
		frame(`[null]`):          "line 2: the headers of a frame are not pairs",
		frame(`[["a"]]`):         "line 2: the headers of a frame are not pairs",
		frame(`[["a","b","c"]]`): "line 2: the headers of a frame are not pairs",
		frame(`[["a",1]]`):       "line 2: the headers of a frame are not pairs",
		frame(`{"a":"b"}`):       "line 2: the headers of a frame are not pairs",
		frame(`"a"`):             "line 2: the headers of a frame are not pairs",
		frame(`[["a","b"]` + strings.Repeat(`,["a","b"]`, 1000) + `]`):     "line 2: a frame has more than 1000 headers",
		frame(`[["a","` + strings.Repeat("x", 100_000) + `"]]`):            "line 2: a header of the frame is too long",
		request(`"status":99999`):                                          "line 2: 99999 is no status of HTTP",
		request(`"status":-1`):                                             "line 2: -1 is no status of HTTP",
		request(`"status":"x"`):                                            "line 2: request.status cannot be that string",
		request(`"status":200,"took_us":-3`):                               "line 2: took_us is -3",
		request(`"status":200,"answer":{"text":"a","json":1}`):             "line 2: a body has more than one of",
		request(`"status":200,"answer":{"omitted":-1}`):                    "line 2: a body has more than one of",
		request(`"status":0,"failure":"` + strings.Repeat("x", 200) + `"`): "line 2: a member of the request is too long",
		entry(strings.Replace(end, `"frames":0`, `"frames":3`, 1)):         "line 2: its end says 0 requests and 3 frames, and there are 0 and 0",
		entry(strings.Replace(end, `"words":0`, `"words":-1`, 1)):          "line 2: one of its counts is negative",
		entry(end + "\n" + end):                                            "line 2: it goes on behind its end",
	} {
		err := inspected(io.Discard, bytes.NewReader(zipped(t, in)))
		if err == nil || !strings.Contains(err.Error(), want) || !oneLine(err) {
			t.Errorf("%.80q: %v, want %s", in, err, want)
		}
	}
	if err := inspected(io.Discard, strings.NewReader("no gzip at all")); err == nil || !strings.Contains(err.Error(), "not compressed by gzip") {
		t.Error(err)
	}
	if err := inspected(io.Discard, bytes.NewReader(zipped(t, entry(end)))); err != nil {
		t.Error(err)
	}
	flipped := bytes.Clone(file)
	flipped[len(flipped)-6] ^= 1 // in the checksum
	if err := inspected(io.Discard, bytes.NewReader(flipped)); err == nil || !strings.Contains(err.Error(), "it cannot be decompressed") || !oneLine(err) {
		t.Error(err)
	}
}

// oneLine says whether an error is one line, without words of Go's library, and with a remedy.
func oneLine(err error) bool {
	text := err.Error()
	return !strings.ContainsAny(text, "\n") && len(text) < 400 && !goWords.MatchString(text)
}

var goWords = regexp.MustCompile(`bufio|Scanner|invalid character|json:|unmarshal|gzip:|flate:|strconv|unexpected|EOF|open /|read /|capture: capture`)

func inspected(out io.Writer, r io.Reader) error {
	in, err := NewReader(r)
	if err != nil {
		return err
	}
	return Inspect(out, in)
}

func zipped(t testing.TB, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// FuzzReader reads whatever is in a file: it is a capture that can be shown, or there is an error of one line.
func FuzzReader(f *testing.F) {
	file, err := os.ReadFile("../playback/testdata/activemq-odd.gz")
	if err != nil {
		f.Fatal(err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		f.Fatal(err)
	}
	text, err := io.ReadAll(zip)
	if err != nil {
		f.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	f.Add([]byte(strings.Join(slices.Concat(lines[:20], lines[len(lines)-2:]), "")))
	f.Add([]byte(lines[0] + `{"at_us":1,"kind":"link","link":{"lost":"x","failed":true}}` + "\n" + `{"at_us":5,"kind":"end","end":{}}`))
	f.Add([]byte(lines[0] + `{"at_us":1,"kind":"request","request":{"operation":"list-os-messages","method":"GET","uri":"/","took_us":1,"status":200,"headers":{"Retry-After":"1"},"answer":{"json":{"os-messages":[{}]}}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var out strings.Builder
		err := inspected(&out, bytes.NewReader(zipped(t, string(text))))
		if err != nil && (!oneLine(err) || out.Len() > 0) || err == nil && out.Len() == 0 {
			t.Fatalf("%v\n%s", err, out.String())
		}
		if out.Len() > 200_000 {
			t.Fatalf("%d bytes of summary", out.Len())
		}
	})
}

// A file of many kinds, of all lengths, is shown in little.
func TestManyKinds(t *testing.T) {
	var file bytes.Buffer
	w, err := NewWriter(&file, Header{Began: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	const kinds = 5_000
	for i := range kinds {
		name := strconv.Itoa(i) + strings.Repeat("x", i)
		f := &Frame{Command: Message, Headers: Pairs{{"notification-type", name}}}
		for _, e := range []*Entry{
			{Kind: KindFrame, Frame: f},
			{Kind: KindRequest, Request: &Request{Operation: name[:min(len(name), 90)], Method: "GET"}},
		} {
			if err := w.Write(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(w.Write(&Entry{Kind: KindEnd, End: &End{}}), w.Close()); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := inspected(&out, &file); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\n      1  0\n", "and 960 more kinds\n   4000  of further kinds\n"} {
		if strings.Count(out.String(), want) < 1 {
			t.Errorf("lacks %q:\n%.2000s", want, out.String())
		}
	}
	if out.Len() > 100_000 {
		t.Errorf("%d bytes of summary", out.Len())
	}
}

// What would be too much for those who read a capture is left out of it when it is written, and it says so.
func TestTooLargeForALine(t *testing.T) {
	r := NewRecorder(0)
	large := []byte(`{"text":"` + strings.Repeat("x", MaxLine) + `"}`)
	r.Exchange(hmc.Exchange{Operation: "list-cpcs", Method: "GET", URI: "/api/cpcs", Status: 200, Answer: large, Began: time.Now()})
	r.Frame(receiver.Traffic{Command: Message, At: time.Now(), Body: []byte(strings.Repeat("\x01", 2<<20))}) // six times as long in JSON
	r.Frame(receiver.Traffic{Command: Message, At: time.Now(), Body: []byte(`{}`)})
	r.Frame(receiver.Traffic{Command: strings.Repeat("X", 200), At: time.Now()})
	file, text := written(t, r, WriteOptions{})
	if len(text) > 10_000 || strings.Count(text, `"omitted":`) != 3 {
		t.Errorf("%d bytes: %.2000s", len(text), text)
	}
	var out strings.Builder
	if err := inspected(&out, bytes.NewReader(file)); err != nil || !strings.Contains(out.String(), "3 requests or frames were larger than 5 MiB") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// What is no file that can be read is named, with a remedy.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:                           " is a directory: name a file in it",
		pipe:                          " is no regular file: write what comes from it into one first",
		filepath.Join(dir, "none"):    " cannot be read: no such file or directory",
		file("empty", nil):            " is not a capture of hmcnotifyd: it is empty",
		file("text", []byte("hmcs:")): " is not a capture of hmcnotifyd: it is not compressed by gzip",
		file("zip", zipped(t, "x")):   " is not a capture of hmcnotifyd: its first line does not say so",
	} {
		in, err := Open(t.Context(), path)
		if in != nil || err == nil || !strings.HasPrefix(err.Error(), path+want) || !oneLine(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
	whole, _ := written(t, recorded(), WriteOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	in, err := Open(ctx, file("whole", whole))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	if err := Inspect(io.Discard, in); err != nil {
		t.Error(err)
	}
	cancel()
	if _, err := Open(ctx, in.name); err == nil || err.Error() != in.name+": interrupted" {
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
