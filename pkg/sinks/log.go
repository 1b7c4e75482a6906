package sinks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// logBatchRecords and logBatchBytes are what one Send should be given; it takes any number.
	logBatchRecords = 1024
	logBatchBytes   = 1 << 20

	// logChunk is how much is written at once.
	logChunk = 256 << 10

	// logMode lets the group read a log file, as log shippers need it.
	logMode = 0o640
)

// logSink writes one line per event.
type logSink struct {
	// path is that of the file; "" for stdout and stderr.
	path string
	// text is for people, not JSON.
	text bool
	// maxSize is how large the file gets before it is rotated; 0: it is not.
	maxSize int64
	// rotated files
	keep int
	attempts

	// busy guards what follows.
	busy mutex
	out  io.Writer
	// file is out, where the sink has opened it.
	file *os.File
	buf  []byte
	// torn says that the output ends in the middle of a line.
	torn bool
}

func newLog(cfg config.Sink, opts Options) (Sink, error) {
	l := &logSink{
		text:    cfg.Log.Format == config.FormatText,
		maxSize: int64(cfg.Log.MaxSize),
		keep:    max(cfg.Log.MaxFiles, 1),
		busy:    newMutex(),
	}
	l.attempts = attempts{
		name: "log: " + cfg.Log.Output, timeout: timeoutOf(cfg), life: newLifetime(), explain: withoutPath,
	}
	switch cfg.Log.Output {
	case "":
		return nil, errors.New("log: output is not set")
	case config.OutputStdout:
		l.out = cmp.Or[io.Writer](opts.Stdout, os.Stdout)
	case config.OutputStderr:
		l.out = cmp.Or[io.Writer](opts.Stderr, os.Stderr)
	default:
		l.path = cfg.Log.Output
		if err := l.reopen(); err != nil {
			return nil, fmt.Errorf("log: %w", err)
		}
	}
	return l, nil
}

// openLog opens a log file for appending. A named pipe without a reader is an error instead of a
// wait.
func openLog(path string, flag int) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|syscall.O_NONBLOCK|flag, logMode)
}

// endsTorn reports whether a file that was just opened ends in the middle of a line, as a power
// loss may leave it. Where that cannot be seen, because the file may be written but not read, it
// does not.
func endsTorn(file *os.File) bool {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	r, err := os.Open(file.Name())
	if err != nil {
		return false
	}
	defer r.Close() //nolint:errcheck // it was only read
	var last [1]byte
	_, err = r.ReadAt(last[:], info.Size()-1)
	return err == nil && last[0] != '\n'
}

// MaxBatch returns what is written at once without being configured: one write of many lines costs
// little more than that of one.
func (l *logSink) MaxBatch() (records, bytes int) { return logBatchRecords, logBatchBytes }

// Send appends the stored JSON of each record and a line feed. To a file it writes all records or,
// as far as nobody else appends to it, none: what a full disk cuts off is taken back. Elsewhere a
// line may be left incomplete; the next one then starts on a line of its own.
//
// nil means that the operating system has the lines; they are not forced to the disk.
func (l *logSink) Send(ctx context.Context, records []event.Record) error {
	if len(records) == 0 {
		return nil
	}
	return l.exclusive(ctx, func(attempt context.Context) error { return l.write(attempt, records) })
}

// Preview returns a line.
func (l *logSink) Preview(record event.Record) ([]byte, error) { return l.line(&record), nil }

// exclusive calls do while nothing else uses the output, with a context that ends with ctx, after
// the timeout or with Close.
func (l *logSink) exclusive(ctx context.Context, do func(context.Context) error) error {
	return l.do(ctx, notWritten, func(attempt context.Context) error {
		if err := l.busy.lock(attempt); err != nil {
			return err
		}
		defer l.busy.unlock()
		return do(attempt)
	})
}

func (l *logSink) write(ctx context.Context, records []event.Record) error {
	if l.deleted() {
		if err := l.reopen(); err != nil {
			return err
		}
	}
	l.rotate(records)
	defer l.interruptible(ctx)()
	size, torn := l.size(), l.torn
	written, err := l.writeLines(records)
	if err != nil && written > 0 && l.takeBack(size, written) {
		l.torn = torn
	}
	return err
}

// interruptible makes a write to the output fail when ctx ends, as far as the system can do that:
// for pipes and sockets that Go's poller knows. The function it returns ends that.
func (l *logSink) interruptible(ctx context.Context) func() {
	out, ok := l.out.(interface{ SetWriteDeadline(t time.Time) error })
	if !ok || out.SetWriteDeadline(time.Time{}) != nil {
		return func() {}
	}
	return interruptible(ctx, out.SetWriteDeadline)
}

// writeLines returns how many bytes it has written, also with an error.
func (l *logSink) writeLines(records []event.Record) (written int64, err error) {
	buf := l.buf[:0]
	defer func() {
		// Else one large event would keep its memory for ever.
		if cap(buf) <= 2*logChunk {
			l.buf = buf[:0]
		} else {
			l.buf = nil
		}
	}()
	if l.torn {
		buf = append(buf, '\n')
	}
	for i := range records {
		line := l.line(&records[i])
		if len(buf) > 0 && len(buf)+len(line)+1 > logChunk {
			n, err := l.writeChunk(buf)
			written += int64(n)
			if err != nil {
				return written, err
			}
			buf = buf[:0]
		}
		buf = append(append(buf, line...), '\n')
	}
	n, err := l.writeChunk(buf)
	return written + int64(n), err
}

// line is an event without the line feed.
func (l *logSink) line(r *event.Record) []byte {
	if l.text {
		return textLine(r)
	}
	return r.JSON
}

// textLine is an event as a person reads it: time, severity, HMC, type and summary.
func textLine(r *event.Record) []byte {
	f := fieldsOf(r)
	// What an HMC sent must not look like lines of its own, or drive a terminal.
	return []byte(event.Printable(strings.Join([]string{f.time, f.severity, f.hmc, f.kind, f.summary}, " ")))
}

// rotate puts the file aside if it would become too large, and begins a new one. Where that is not
// possible, the file goes on to grow: no event waits for it.
func (l *logSink) rotate(records []event.Record) {
	size := l.size()
	if l.maxSize <= 0 || size <= 0 {
		return
	}
	more := int64(0)
	for i := range records {
		more += int64(len(records[i].JSON)) + 1
	}
	if size+more <= l.maxSize {
		return
	}
	// Something else has moved the file away: it is not this one that stands under the name.
	if l.probe() != nil {
		_ = l.reopen()
		return
	}
	for i := l.keep; i > 1; i-- {
		if err := os.Rename(l.rotated(i-1), l.rotated(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
	if os.Rename(l.path, l.rotated(1)) == nil && l.reopen() != nil {
		// It is written to, so it has to be found.
		_ = os.Rename(l.rotated(1), l.path)
	}
}

func (l *logSink) rotated(i int) string { return l.path + "." + strconv.Itoa(i) }

// writeChunk writes whole lines with one call.
func (l *logSink) writeChunk(chunk []byte) (int, error) {
	n, err := l.out.Write(chunk)
	if n > 0 {
		l.torn = chunk[n-1] != '\n'
	}
	if err == nil && n < len(chunk) {
		err = io.ErrShortWrite
	}
	return n, err
}

// withoutPath takes the path out of an error of package os: the errors of the sink begin with it
// already.
func withoutPath(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", pe.Op, pe.Err)
	}
	return err
}

// size returns the size of the file, or -1 where the output is not a file of the sink's own that
// can be cut.
func (l *logSink) size() int64 {
	if info := l.stat(); info != nil {
		return info.Size()
	}
	return -1
}

// stat is of such a file; nil: the output is none.
func (l *logSink) stat() fs.FileInfo {
	if l.file == nil {
		return nil
	}
	info, err := l.file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	return info
}

// deleted says that nobody can find what is written: the file has no name any more.
func (l *logSink) deleted() bool {
	info := l.stat()
	if info == nil {
		return false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && s.Nlink == 0
}

// takeBack cuts the file to the size it had before the last written bytes, unless something else
// has changed it since. It reports whether it did.
func (l *logSink) takeBack(size, written int64) bool {
	return size >= 0 && l.size() == size+written && l.file.Truncate(size) == nil
}

// Reopen opens the file anew under its name, and makes it if it is not there.
func (l *logSink) Reopen() error {
	if l.path == "" {
		return nil
	}
	return l.exclusive(l.life.ctx, func(context.Context) error { return l.reopen() })
}

func (l *logSink) reopen() error {
	file, err := openLog(l.path, os.O_CREATE)
	if err != nil {
		return err
	}
	old := l.file
	l.out, l.file, l.torn = file, file, endsTorn(file)
	if old == nil {
		return nil
	}
	return old.Close()
}

// Probe reports whether the output can be written to, without writing. A file that something has
// moved away since it was opened is an error: nobody would find the lines.
func (l *logSink) Probe(ctx context.Context) error {
	return l.exclusive(ctx, func(context.Context) error { return l.probe() })
}

func (l *logSink) probe() error {
	if l.path == "" {
		_, err := l.out.Write(nil)
		return err
	}
	file, err := openLog(l.path, 0)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // nothing was written
	there, err := file.Stat()
	if err != nil {
		return err
	}
	here, err := l.file.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(there, here) {
		return errors.New("no longer the file that is written to: reopen it")
	}
	return nil
}

// Close closes the file. It does not close stdout or stderr.
func (l *logSink) Close() error {
	if l.life.closed() {
		return nil
	}
	l.life.end()
	if l.path == "" {
		// It does not wait: a write to a blocked terminal cannot be interrupted.
		return nil
	}
	l.busy <- struct{}{}
	defer l.busy.unlock()
	if l.file == nil { // another Close was first
		return nil
	}
	err := l.file.Close()
	l.file = nil
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	return nil
}
