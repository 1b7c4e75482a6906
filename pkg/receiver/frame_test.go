package receiver

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	stomp "github.com/go-stomp/stomp/v3/frame"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/jsontext"
)

func testLimits(tb testing.TB, l Limits) Limits {
	tb.Helper()
	l, err := l.withDefaults()
	must(tb, err)
	return l
}

// readAll reads frames until an error, which it returns.
func readAll(fr *frameReader) ([]frame, error) {
	var frames []frame
	for {
		f, err := fr.next()
		if err != nil {
			return frames, err
		}
		frames = append(frames, f)
	}
}

// capture is a notification as captured from a real HMC (values changed).
const capture = "MESSAGE\n" +
	"destination:/topic/sysprog.163osm.e12121dac50331178e79c46bd3531b90\n" +
	"subscription:zhmcclient.4513457376\n" +
	"message-id:ID\\cHMCHOST-42915-1555356921407-5\\c1\\c1\\c65\\c2\n" +
	"expires:0\npriority:4\ntimestamp:1557755398299\nglobal-sequence-nr:6399\nsession-sequence-nr:1\n" +
	"notification-type:os-message\nclass:logical-partition\nname:LP41\n" +
	"object-id:e12121da-c503-3117-8e79-c46bd3531b90\n" +
	"object-uri:/api/logical-partitions/e12121da-c503-3117-8e79-c46bd3531b90\n\n" +
	`{"os-messages":[{"sequence-number":1564,"message-id":"0","message-text":" \n","os-name":null,"timestamp":-1}]}` + "\x00\n"

func TestReadCapture(t *testing.T) {
	fr := newFrameReader(strings.NewReader("\n\r\n"+capture+capture), testLimits(t, Limits{}))
	fr.escapes = true
	frames, err := readAll(fr)
	if !errors.Is(err, io.EOF) || len(frames) != 2 {
		t.Fatalf("%d frames, %v", len(frames), err)
	}
	if !reflect.DeepEqual(frames[0], frames[1]) {
		t.Errorf("the same frame twice differs:\n%+v\n%+v", frames[0], frames[1])
	}
	f := frames[0]
	if f.command != commandMessage || len(f.headers) != 13 || cap(f.headers) != 13 || cap(f.body) > len(f.body)+16 {
		t.Errorf("command %v, %d headers of %d, body of %d in %d", f.command, len(f.headers), cap(f.headers), len(f.body), cap(f.body))
	}
	for name, want := range map[string]string{
		"destination": "/topic/sysprog.163osm.e12121dac50331178e79c46bd3531b90",
		"message-id":  "ID:HMCHOST-42915-1555356921407-5:1:1:65:2",
		"object-uri":  "/api/logical-partitions/e12121da-c503-3117-8e79-c46bd3531b90",
		"expires":     "0",
	} {
		if got := f.headers.Get(name); got != want {
			t.Errorf("header %s is %q, want %q", name, got, want)
		}
	}
	if _, ok := f.headers.Lookup("content-length"); ok || f.headers.Get("nothing") != "" {
		t.Error("headers that are not there")
	}
	if _, err := jsontext.Check(f.body); err != nil {
		t.Errorf("body %q: %v", f.body, err)
	}
}

func TestReadFrames(t *testing.T) {
	const (
		v10 = iota
		v11
		v12
	)
	for name, test := range map[string]struct {
		in      string
		version int
		want    []frame
		err     string
	}{
		"nothing":            {in: "", err: "EOF"},
		"heart-beats":        {in: "\n\n\r\n\n", err: "EOF"},
		"half an EOL":        {in: "\n\r", err: "unexpected EOF"},
		"no headers, body":   {in: "MESSAGE\n\nx\x00", want: []frame{{command: commandMessage, body: []byte("x")}}, err: "EOF"},
		"no body":            {in: "RECEIPT\nreceipt-id:1\n\n\x00", want: []frame{{command: commandReceipt, headers: Headers{{"receipt-id", "1"}}}}, err: "EOF"},
		"CR LF":              {in: "\r\nERROR\r\na:b\r\n\r\nx\r\n\x00\r\n", version: v12, want: []frame{{command: commandError, headers: Headers{{"a", "b"}}, body: []byte("x\r\n")}}, err: "EOF"},
		"escapes of 1.0":     {in: "MESSAGE\na:C:\\new\\c\n\n\x00", version: v10, want: []frame{{command: commandMessage, headers: Headers{{"a", `C:\new\c`}}}}, err: "EOF"},
		"escapes of 1.1":     {in: "MESSAGE\na:\\c\\n\\\\\\r\\t\\\nb\\cc:\\\\c\n\n\x00", version: v11, want: []frame{{command: commandMessage, headers: Headers{{"a", ":\n\\\\r\\t\\"}, {"b:c", `\c`}}}}, err: "EOF"},
		"escapes of 1.2":     {in: "MESSAGE\na:\\r\\\\r\nb:x\n\n\x00", version: v12, want: []frame{{command: commandMessage, headers: Headers{{"a", "\r\\r"}, {"b", "x"}}}}, err: "EOF"},
		"blanks and colons":  {in: "ERROR\nmessage:  two: blanks \n\n\x00", version: v11, want: []frame{{command: commandError, headers: Headers{{"message", "  two: blanks "}}}}, err: "EOF"},
		"repeated header":    {in: "MESSAGE\na:1\na:2\nb:\n\n\x00", want: []frame{{command: commandMessage, headers: Headers{{"a", "1"}, {"a", "2"}, {"b", ""}}}}, err: "EOF"},
		"content-length":     {in: "MESSAGE\ncontent-length:3\n\na\x00b\x00\n", want: []frame{{command: commandMessage, headers: Headers{{"content-length", "3"}}, body: []byte("a\x00b")}}, err: "EOF"},
		"content-length 0":   {in: "MESSAGE\ncontent-length:0\n\n\x00\n", want: []frame{{command: commandMessage, headers: Headers{{"content-length", "0"}}}}, err: "EOF"},
		"first counts":       {in: "MESSAGE\ncontent-length:1\ncontent-length:2\n\na\x00\n", want: []frame{{command: commandMessage, headers: Headers{{"content-length", "1"}, {"content-length", "2"}}, body: []byte("a")}}, err: "EOF"},
		"not UTF-8":          {in: "MESSAGE\na:\xff\n\n\x00", version: v11, want: []frame{{command: commandMessage, headers: Headers{{"a", "\xff"}}}}, err: "EOF"},
		"EOF in command":     {in: "MESS", err: "unexpected EOF"},
		"EOF in headers":     {in: "MESSAGE\na:b\n", err: "unexpected EOF"},
		"EOF in body":        {in: "MESSAGE\n\nabc", err: "unexpected EOF"},
		"EOF in counted":     {in: "MESSAGE\ncontent-length:5\n\nabc", err: "unexpected EOF"},
		"EOF before NUL":     {in: "MESSAGE\ncontent-length:3\n\nabc", err: "unexpected EOF"},
		"client's command":   {in: "SEND\n\n\x00", err: `not a STOMP frame: it begins with "SEND"`},
		"an HTTP server":     {in: "HTTP/1.1 400 Bad Request\r\n\r\n", err: `not a STOMP frame: it begins with "HTTP/1.1 400 Bad Request"`},
		"lone CR":            {in: "\rMESSAGE\n\n\x00", err: `not a STOMP frame: it begins with "\rMESSAGE"`},
		"CR in a command":    {in: "MESSAGE\r\r\n\n\x00", err: `not a STOMP frame: it begins with "MESSAGE\r"`},
		"no colon":           {in: "MESSAGE\nabc\n\n\x00", err: `malformed header line "abc"`},
		"no name":            {in: "MESSAGE\n:abc\n\n\x00", err: `malformed header line ":abc"`},
		"content-length -1":  {in: "MESSAGE\ncontent-length:-1\n\n\x00", err: `malformed content-length "-1"`},
		"content-length x":   {in: "MESSAGE\ncontent-length:x\n\n\x00", err: `malformed content-length "x"`},
		"huge length":        {in: "MESSAGE\ncontent-length:99999999999999999999\n\n\x00", err: `malformed content-length "99999999999999999999"`},
		"length too short":   {in: "MESSAGE\ncontent-length:2\n\nabc\x00", err: "no NUL after a body of 2 bytes"},
		"counted too large":  {in: "MESSAGE\ncontent-length:101\n\n", err: "body of 101 bytes, more than 100"},
		"body too large":     {in: "MESSAGE\n\n" + strings.Repeat("x", 101) + "\x00", err: "body of more than 100 bytes"},
		"largest body":       {in: "MESSAGE\n\n" + strings.Repeat("x", 100) + "\x00", want: []frame{{command: commandMessage, body: bytes.Repeat([]byte("x"), 100)}}, err: "EOF"},
		"line too long":      {in: "MESSAGE\na:" + strings.Repeat("x", 49) + "\n\n\x00", err: "header line of more than 50 bytes"},
		"endless line":       {in: "MESSAGE\na:" + strings.Repeat("x", 500), err: "header line of more than 50 bytes"},
		"endless command":    {in: strings.Repeat("x", 500), err: "header line of more than 50 bytes"},
		"longest line":       {in: "MESSAGE\na:" + strings.Repeat("x", 48) + "\r\n\n\x00", want: []frame{{command: commandMessage, headers: Headers{{"a", strings.Repeat("x", 48)}}}}, err: "EOF"},
		"too many headers":   {in: "MESSAGE\n" + strings.Repeat("a:b\n", 6) + "\n\x00", err: "frame of more than 5 headers"},
		"just enough":        {in: "MESSAGE\n" + strings.Repeat("a:b\n", 5) + "\n\x00", want: []frame{{command: commandMessage, headers: Headers{{"a", "b"}, {"a", "b"}, {"a", "b"}, {"a", "b"}, {"a", "b"}}}}, err: "EOF"},
		"frame then garbage": {in: "MESSAGE\n\n\x00\n\x00", want: []frame{{command: commandMessage}}, err: "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			for way, src := range map[string]io.Reader{"whole": strings.NewReader(test.in), "byte by byte": iotest.OneByteReader(strings.NewReader(test.in))} {
				fr := newFrameReader(src, testLimits(t, Limits{HeaderLine: 50, HeaderCount: 5, Body: 100}))
				fr.escapes, fr.carriageReturns = test.version >= v11, test.version == v12
				frames, err := readAll(fr)
				if err == nil || err.Error() != test.err {
					t.Errorf("%s: error %v, want %s", way, err, test.err)
				}
				for i := range frames {
					frames[i].size = 0
				}
				if !reflect.DeepEqual(frames, test.want) {
					t.Errorf("%s: got %+v\nwant %+v", way, frames, test.want)
				}
			}
		})
	}
}

// TestReadAcrossBuffer reads frames of all sizes around that of the buffer, in pieces of awkward sizes.
func TestReadAcrossBuffer(t *testing.T) {
	var in bytes.Buffer
	var want []int
	for _, size := range []int{0, 1, 100, bufferSize - 30, bufferSize - 1, bufferSize, bufferSize + 1, 3 * bufferSize, 5, 1 << 20} {
		for _, counted := range []bool{false, true} {
			in.WriteString("MESSAGE\nlong:" + strings.Repeat("h", size/20) + "\n")
			if counted {
				in.WriteString("content-length:" + strconv.Itoa(size) + "\n")
			}
			in.WriteString("\n" + strings.Repeat("b", size) + "\x00\n")
			want = append(want, size)
		}
	}
	for _, piece := range []int{1 << 30, 1, 7, minRead, bufferSize} {
		fr := newFrameReader(&pieces{in.Bytes(), piece}, testLimits(t, Limits{HeaderLine: 1 << 20}))
		fr.escapes = true
		frames, err := readAll(fr)
		if !errors.Is(err, io.EOF) || len(frames) != len(want) {
			t.Fatalf("pieces of %d: %d frames, %v", piece, len(frames), err)
		}
		for i, f := range frames {
			if len(f.body) != want[i] || len(f.headers.Get("long")) != want[i]/20 || bytes.Count(f.body, []byte("b")) != want[i] {
				t.Errorf("pieces of %d: frame %d has a body of %d bytes and a header of %d, want %d and %d", piece, i, len(f.body), len(f.headers.Get("long")), want[i], want[i]/20)
			}
		}
		if len(fr.buf) != bufferSize {
			t.Errorf("the buffer stayed at %d bytes", len(fr.buf))
		}
	}
}

// pieces reads data in pieces of at most size bytes.
type pieces struct {
	data []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.data)
	p.data = p.data[n:]
	return n, nil
}

// TestAnnouncedBodyTakesNoMemory checks that a content-length alone reserves nothing.
func TestAnnouncedBodyTakesNoMemory(t *testing.T) {
	before := heap()
	fr := newFrameReader(strings.NewReader("MESSAGE\ncontent-length:4000000000\n\nabc"), testLimits(t, Limits{Body: 4 << 30}))
	if _, err := fr.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
	if after := heap(); after > before+(1<<20) {
		t.Errorf("%d bytes were allocated", after-before)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func TestReadAllocations(t *testing.T) {
	fr := newFrameReader(&loop{data: []byte(capture)}, testLimits(t, Limits{}))
	fr.escapes = true
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := fr.next(); err != nil {
			t.Fatal(err)
		}
	}); n > 3 {
		t.Errorf("%v allocations for a frame, want 3: headers, their text, the body", n)
	}
}

func TestReaderThatReadsNothing(t *testing.T) {
	fr := newFrameReader(iotest.ErrReader(nil), testLimits(t, Limits{}))
	if _, err := fr.next(); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("error %v", err)
	}
}

var frameSeeds = []string{
	capture, string(statusChange("sub-1")), connected11, connected00,
	"\n\n\r\nRECEIPT\nreceipt-id:1\n\n\x00\n\n", "MESSAGE\r\na\\c:b\\r\r\n\r\nx\x00", "MESSAGE\ncontent-length:3\n\na\x00b\x00",
	"ERROR\ncontent-type:text/plain\nmessage:  remote addConsumer failed because the specified destination, 'topic\\c//u.1', is not a known or approved topic.\n\njava.lang.SecurityException\x00\n",
	"MESSAGE\na:\\\\c\\t\\\n\n\x00", "MESSAGE\n:\n\n\x00", "MESSAGE\ncontent-length:-1\n\n\x00", "HTTP/1.1 400\r\n\r\n", "\r\r\n", "\x00\n",
	"MESSAGE\ncontent-length:1\ncontent-length:2\n\nx\x00MESSAGE\n\n\x00",
}

// FuzzFrameReader compares our reader with go-stomp's. Both must see the same frames up to where one of them stops; and how the
// stream is cut into pieces must make no difference.
func FuzzFrameReader(f *testing.F) {
	for _, s := range frameSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		limits := testLimits(t, Limits{Body: 1 << 20})
		read := func(src io.Reader) ([]frame, error) {
			fr := newFrameReader(src, limits)
			fr.escapes, fr.carriageReturns = true, true
			return readAll(fr)
		}
		frames, err := read(bytes.NewReader(data))
		again, errAgain := read(iotest.HalfReader(iotest.OneByteReader(bytes.NewReader(data))))
		if !reflect.DeepEqual(frames, again) || err.Error() != errAgain.Error() {
			t.Fatalf("cut into bytes: %+v, %v\nin one: %+v, %v", again, errAgain, frames, err)
		}
		oracle := stomp.NewReader(bytes.NewReader(data))
		for i, f := range frames {
			var want *stomp.Frame
			for want == nil {
				var oracleErr error
				if want, oracleErr = oracle.Read(); oracleErr != nil {
					t.Fatalf("frame %d: we read %+v, go-stomp says %v", i, f, oracleErr)
				}
			}
			compareFrame(t, f, want)
		}
		if errors.Is(err, io.EOF) { // we saw the whole input
			for {
				f, oracleErr := oracle.Read()
				if f != nil {
					t.Fatalf("go-stomp reads one frame more: %+v", f)
				}
				if oracleErr != nil {
					break
				}
			}
		}
	})
}

func compareFrame(t *testing.T, got frame, want *stomp.Frame) {
	t.Helper()
	if command, ok := parseCommand([]byte(want.Command)); !ok || command != got.command {
		t.Fatalf("command %v, go-stomp has %s", got.command, want.Command)
	}
	if len(got.headers) != want.Header.Len() {
		t.Fatalf("%d headers, go-stomp has %d", len(got.headers), want.Header.Len())
	}
	for i, h := range got.headers {
		if name, value := want.Header.GetAt(i); h.Name != name || h.Value != value {
			t.Fatalf("header %d is %q: %q, go-stomp has %q: %q", i, h.Name, h.Value, name, value)
		}
	}
	if !bytes.Equal(got.body, want.Body) || (len(got.body) == 0) != (got.body == nil) {
		t.Fatalf("body %q, go-stomp has %q", got.body, want.Body)
	}
}

// FuzzLimits checks that no input makes the reader panic or keep more than its limits allow.
func FuzzLimits(f *testing.F) {
	for _, s := range frameSeeds {
		f.Add([]byte(s), 20, 3, 50, true)
	}
	f.Fuzz(func(t *testing.T, data []byte, line, count, body int, escapes bool) {
		limits := Limits{HeaderLine: 1 + abs(line)%1000, HeaderCount: 1 + abs(count)%100, Body: 1 + abs(body)%10000}
		fr := newFrameReader(bytes.NewReader(data), limits)
		fr.escapes = escapes
		frames, err := readAll(fr)
		if err == nil {
			t.Fatal("no end")
		}
		for _, f := range frames {
			if len(f.body) > limits.Body || len(f.headers) > limits.HeaderCount {
				t.Fatalf("body of %d bytes, %d headers; limits %+v", len(f.body), len(f.headers), limits)
			}
			for _, h := range f.headers {
				if len(h.Name)+1+len(h.Value) > limits.HeaderLine {
					t.Fatalf("header of %d bytes; limits %+v", len(h.Name)+1+len(h.Value), limits)
				}
			}
		}
	})
}

func abs(n int) int {
	if n < 0 {
		return -(n + 1)
	}
	return n
}

func TestAppendFrame(t *testing.T) {
	got := string(appendFrame([]byte("x"), "CONNECT", "login", "u", "passcode", `p:w\"ä`))
	if want := "xCONNECT\nlogin:u\npasscode:p:w\\\"ä\n\n\x00"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
