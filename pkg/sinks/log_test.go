package sinks

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

func logTo(t testing.TB, output string, opts Options) *logSink {
	t.Helper()
	return logWith(t, config.Log{Output: output}, opts)
}

func logWith(t testing.TB, cfg config.Log, opts Options) *logSink {
	t.Helper()
	s, err := New(config.Sink{Name: "journal", Log: &cfg, Timeout: patience}, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l, ok := s.(*logSink)
	if !ok {
		t.Fatalf("%T", s)
	}
	return l
}

// lines returns what a log holds after rs.
func lines(rs []event.Record) string {
	var b strings.Builder
	for _, r := range rs {
		b.Write(r.JSON)
		b.WriteByte('\n')
	}
	return b.String()
}

func expectFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s holds %d bytes, want %d\n%.500s\nwant\n%.500s", path, len(got), len(want), got, want)
	}
}

// writes keeps what each call of Write got.
type writes struct{ calls [][]byte }

func (w *writes) Write(p []byte) (int, error) {
	w.calls = append(w.calls, bytes.Clone(p))
	return len(p), nil
}

func TestLogWritesTogether(t *testing.T) {
	var out, err writes
	opts := Options{Stdout: &out, Stderr: &err}
	rs := records(0, 200)
	if err := logTo(t, config.OutputStdout, opts).Send(t.Context(), rs); err != nil {
		t.Fatal(err)
	}
	if len(out.calls) != 1 || string(out.calls[0]) != lines(rs) {
		t.Errorf("%d calls of Write", len(out.calls))
	}
	if len(err.calls) != 0 {
		t.Error("stdout went to stderr")
	}
	if err := logTo(t, config.OutputStderr, opts).Send(t.Context(), rs); err != nil {
		t.Fatal(err)
	}
	if len(err.calls) != 1 || len(out.calls) != 1 {
		t.Error("stderr did not go to stderr")
	}
}

func TestLogSplitsLargeBatches(t *testing.T) {
	var out writes
	s := logTo(t, config.OutputStdout, Options{Stdout: &out})
	var rs []event.Record
	for i := range 20 {
		rs = append(rs, largeRecord(i, 60<<10))
	}
	rs = append(rs, largeRecord(20, 3<<20), record(21))
	if err := s.Send(t.Context(), rs); err != nil {
		t.Fatal(err)
	}
	if got := string(bytes.Join(out.calls, nil)); got != lines(rs) {
		t.Errorf("wrote %d bytes, want %d", len(got), len(lines(rs)))
	}
	for i, call := range out.calls {
		if call[len(call)-1] != '\n' {
			t.Errorf("call %d ends within a line", i)
		}
		if len(call) > logChunk && bytes.Count(call, []byte("\n")) > 1 {
			t.Errorf("call %d has %d bytes", i, len(call))
		}
	}
	if len(out.calls) != 7 {
		t.Errorf("%d calls of Write, want 7", len(out.calls))
	}
	if n := cap(s.buf); n > 2*logChunk {
		t.Errorf("%d bytes are kept", n)
	}
}

func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	old := syscall.Umask(0)
	s := logTo(t, path, Options{})
	syscall.Umask(old)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o640 {
		t.Errorf("mode %v, want -rw-r-----", info.Mode())
	}
	rs := records(0, 4)
	if err := s.Send(t.Context(), rs[:2]); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := logTo(t, path, Options{}).Send(t.Context(), rs[2:]); err != nil {
		t.Fatal(err)
	}
	expectFile(t, path, lines(rs))
}

// TestLogFileTorn begins with a file that a crash has left in the middle of a line.
func TestLogFileTorn(t *testing.T) {
	for _, before := range []string{"", "a line\n", "half a li"} {
		path := filepath.Join(t.TempDir(), "events.log")
		if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		s := logTo(t, path, Options{})
		rs := records(0, 2)
		for i := range rs {
			if err := s.Send(t.Context(), rs[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
		if before == "half a li" {
			before += "\n"
		}
		expectFile(t, path, before+lines(rs))
	}
}

func TestLogRefuses(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, output string
		want         error
	}{
		{"nothing set", "", nil},
		{"missing directory", filepath.Join(dir, "none", "events.log"), os.ErrNotExist},
		{"directory", dir, syscall.EISDIR},
		{"pipe without a reader", pipe, syscall.ENXIO},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var s Sink
			err := soon(t, "New", func() (err error) {
				s, err = New(config.Sink{Name: "journal", Log: &config.Log{Output: test.output}}, Options{})
				return err
			})
			if err == nil {
				_ = s.Close()
				t.Fatal("no error")
			}
			if test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("%v", err)
			}
			if !strings.HasPrefix(err.Error(), "log: ") || !strings.Contains(err.Error(), test.output) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestLogReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	s := logTo(t, path, Options{})
	rs := records(0, 4)
	if err := s.Send(t.Context(), rs[:1]); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Probe(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Probe of a file moved away: %v", err)
	}
	if err := s.Send(t.Context(), rs[1:2]); err != nil { // until Reopen it goes where it went
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "reopen") {
		t.Errorf("Probe of a file replaced: %v", err)
	}
	if err := s.Reopen(); err != nil {
		t.Fatal(err)
	}
	if err := s.Probe(t.Context()); err != nil {
		t.Errorf("Probe: %v", err)
	}
	if err := s.Send(t.Context(), rs[2:3]); err != nil {
		t.Fatal(err)
	}

	// One that cannot be opened leaves the sink as it is.
	if err := os.Rename(path, path+".2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Reopen(); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("Reopen of a directory: %v", err)
	}
	if err := s.Send(t.Context(), rs[3:]); err != nil {
		t.Fatal(err)
	}
	expectFile(t, path+".1", lines(rs[:2]))
	expectFile(t, path+".2", lines(rs[2:]))

	if err := logTo(t, config.OutputStdout, Options{Stdout: io.Discard}).Reopen(); err != nil {
		t.Errorf("Reopen of stdout: %v", err)
	}
}

// TestLogReopenWhileWriting rotates under load: every line is in one of the files, whole.
func TestLogReopenWhileWriting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	s := logTo(t, path, Options{})
	const senders, each, rotations = 4, 100, 20
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for j := range each {
				if err := s.Send(t.Context(), records(10*(i*each+j), 10)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	files := []string{path}
	for i := range rotations {
		moved := path + "." + string(rune('a'+i))
		if err := os.Rename(path, moved); err != nil {
			t.Error(err)
		}
		files = append(files, moved)
		if err := s.Reopen(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	seen := make(map[string]bool)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			seen[line] = true
		}
	}
	for _, r := range records(0, 10*senders*each) {
		if !seen[string(r.JSON)+"\n"] {
			t.Fatalf("missing: %s", r.JSON)
		}
	}
	if len(seen) != 10*senders*each {
		t.Errorf("%d different lines, want %d", len(seen), 10*senders*each)
	}
}

// limitFiles lets no file grow beyond size until the returned function is called. The kernel then cuts writes short, as
// on a full disk.
func limitFiles(t *testing.T, size uint64) (lift func()) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Skip(err)
	}
	old := limit
	limit.Cur = size
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Skip(err)
	}
	lift = sync.OnceFunc(func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Error(err)
		}
		signal.Reset(syscall.SIGXFSZ)
	})
	t.Cleanup(lift)
	return lift
}

func TestLogFullDisk(t *testing.T) {
	batches := map[string][]event.Record{
		"in one write":    records(2, 100),
		"in many writes":  {largeRecord(2, 100<<10), largeRecord(3, 100<<10), largeRecord(4, 100<<10), largeRecord(5, 300<<10), record(6)},
		"in a later line": {record(2), largeRecord(3, 700<<10)},
	}
	for name, rs := range batches {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "events.log")
			s := logTo(t, path, Options{})
			first := records(0, 2)
			if err := s.Send(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			lift := limitFiles(t, uint64(len(lines(first))+len(lines(rs))-100))
			for range 3 {
				err := s.Send(t.Context(), rs)
				if !errors.Is(err, syscall.EFBIG) {
					t.Fatalf("%v", err)
				}
				if _, ok := errors.AsType[*PermanentError](err); ok {
					t.Errorf("%v is permanent", err)
				}
				expectFile(t, path, lines(first))
			}
			lift()
			if err := s.Send(t.Context(), rs); err != nil {
				t.Fatal(err)
			}
			expectFile(t, path, lines(first)+lines(rs))
		})
	}
}

// TestLogFullDiskTorn has a full disk under a file that ends in the middle of a line, and room for any part of what
// follows.
func TestLogFullDiskTorn(t *testing.T) {
	// The limit is on every file of this process, also on the log that go test has it write: it must be above the size of that.
	before := strings.Repeat("x", 1<<20) + "half a li"
	rs := records(0, 2)
	for _, room := range []int{0, 1, 2, len(rs[0].JSON), len(rs[0].JSON) + 1, len(rs[0].JSON) + 2, len(lines(rs))} {
		path := filepath.Join(t.TempDir(), "events.log")
		if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		s := logTo(t, path, Options{})
		lift := limitFiles(t, uint64(len(before)+room))
		for range 2 {
			if err := s.Send(t.Context(), rs); !errors.Is(err, syscall.EFBIG) {
				t.Fatalf("room %d: %v", room, err)
			}
			expectFile(t, path, before)
		}
		lift()
		if err := s.Send(t.Context(), rs); err != nil {
			t.Fatal(err)
		}
		expectFile(t, path, before+"\n"+lines(rs))
	}
}

// TestLogFullDiskShared has another process append to the same file: its lines are not taken back.
func TestLogFullDiskShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	s := logTo(t, path, Options{})
	other, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	size := s.size()
	written, err := s.writeLines(records(0, 2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.WriteString("another's line\n"); err != nil {
		t.Fatal(err)
	}
	if s.takeBack(size, written) {
		t.Error("taken back")
	}
	expectFile(t, path, lines(records(0, 2))+"another's line\n")
}

// halves is an output without a file behind it that takes only a part.
type halves struct {
	bytes.Buffer
	room int
}

func (h *halves) Write(p []byte) (int, error) {
	n := min(len(p), h.room)
	h.room -= n
	h.Buffer.Write(p[:n])
	if n < len(p) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

// TestLogTornLine shows that a line which could not be finished does not spoil the next one.
func TestLogTornLine(t *testing.T) {
	rs := records(0, 3)
	text := lines(rs)
	first := len(lines(rs[:1]))
	for _, room := range []int{0, 1, first - 1, first, first + 1, len(text) - 1} {
		out := &halves{room: room}
		s := logTo(t, config.OutputStdout, Options{Stdout: out})
		for range 2 {
			if err := s.Send(t.Context(), rs); !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("room %d: %v", room, err)
			}
		}
		out.room = 1 << 20
		if err := s.Send(t.Context(), rs); err != nil {
			t.Fatal(err)
		}
		want := text[:room]
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if got := out.String(); got != want+text {
			t.Errorf("room %d:\n%s\nwant\n%s", room, got, want+text)
		}
	}
}

func TestLogBrokenPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s := logTo(t, config.OutputStdout, Options{Stdout: w})
	_ = r.Close()
	if err := s.Send(t.Context(), records(0, 1)); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("%v", err)
	}
	_ = w.Close()
	if err := s.Probe(t.Context()); err == nil {
		t.Error("Probe: no error")
	}
}

func TestLogFullDevice(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip(err)
	}
	s := logTo(t, "/dev/full", Options{})
	if err := s.Send(t.Context(), records(0, 1)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
}

// TestLogNamedPipe has a reader that comes, stops reading, and goes.
func TestLogNamedPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := logTo(t, path, Options{})
	if err := s.Send(t.Context(), records(0, 2)); err != nil {
		t.Fatal(err)
	}
	want := lines(records(0, 2))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Errorf("%v %s", err, got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- s.Send(ctx, []event.Record{largeRecord(2, 1<<20)}) }()
	cancel()
	if err := soon(t, "Send", func() error { return <-result }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := soon(t, "Close", s.Close); err != nil {
		t.Error(err)
	}
}

// Lines for people: whatever an HMC or an operating system sends, an event is one of them.
func TestLogText(t *testing.T) {
	var out writes
	s := logWith(t, config.Log{Output: config.OutputStdout, Format: config.FormatText}, Options{Stdout: &out})
	at := time.Date(2026, 11, 20, 10, 0, 0, 123e6, time.UTC)
	rs := []event.Record{
		event.NewRecord(&event.Event{ID: "1", HMC: "east", Type: "status-change", Time: at, Severity: "warning", Summary: "partition PART1 on CPC1: active -> stopped"}),
		event.NewRecord(&event.Event{ID: "2", HMC: "east", Type: "os\nmessage", Time: at, Severity: "info", Summary: "a\r\n\x1b[31mb\u2028c \"d\""}),
	}
	if err := s.Send(t.Context(), rs); err != nil {
		t.Fatal(err)
	}
	const want = "2026-11-20T10:00:00.123Z warning east status-change partition PART1 on CPC1: active -> stopped\n" +
		"2026-11-20T10:00:00.123Z info east os message a   [31mb c \"d\"\n"
	if got := string(bytes.Join(out.calls, nil)); got != want {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}

// A file that would become too large is put aside; nothing is lost but what is beyond the files that are kept.
func TestLogRotation(t *testing.T) {
	rs := records(0, 40)
	size := int64(len(lines(rs[30:])))
	for _, keep := range []int{1, 2, 5} {
		path := filepath.Join(t.TempDir(), "events.log")
		s := logWith(t, config.Log{Output: path, MaxSize: config.Size(size), MaxFiles: keep}, Options{})
		for i := 0; i < len(rs); i += 5 {
			if err := s.Send(t.Context(), rs[i:i+5]); err != nil {
				t.Fatal(err)
			}
		}
		expectFile(t, path, lines(rs[30:]))
		for i := 1; i <= 5; i++ {
			old := path + "." + strconv.Itoa(i)
			if i > keep || i > 3 {
				if _, err := os.Stat(old); err == nil {
					t.Errorf("with %d kept there is %s", keep, old)
				}
				continue
			}
			expectFile(t, old, lines(rs[30-10*i:40-10*i]))
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm()&0o007 != 0 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
}

// Where the file cannot be put aside it goes on to grow, and one that something else has moved away is not moved again.
func TestLogRotationFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "events.log")
	s := logWith(t, config.Log{Output: path, MaxSize: 1, MaxFiles: 2}, Options{})
	rs := records(0, 3)
	send := func(r event.Record) {
		t.Helper()
		if err := s.Send(t.Context(), []event.Record{r}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(path+".1", "full"), 0o700); err != nil { // a directory stands where the file would go
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path+".2", "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	send(rs[0])
	send(rs[1])
	expectFile(t, path, lines(rs[:2]))
	moved := filepath.Join(dir, "moved")
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	send(rs[2])
	expectFile(t, moved, lines(rs[:2]))
	expectFile(t, path, lines(rs[2:]))
}

// What is written to a file that was deleted can be found.
func TestLogFileDeleted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	l, err := New(config.Sink{Name: "l", Log: &config.Log{Output: path}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for range 3 {
		if err := l.Send(t.Context(), records(0, 1)); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil || bytes.Count(data, []byte("\n")) != 1 {
			t.Errorf("%q, %v", data, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.Send(t.Context(), records(0, 1)); err == nil {
		t.Error("delivered to nowhere")
	}
}
