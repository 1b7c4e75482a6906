package logs

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// toJournal says whether what is written goes to systemd's journal: the service manager names the
// device and inode of what it has connected to that.
func toJournal(w io.Writer) bool {
	f, ok := w.(*os.File)
	var dev, ino uint64
	if _, err := fmt.Sscanf(os.Getenv("JOURNAL_STREAM"), "%d:%d", &dev, &ino); err != nil || !ok {
		return false
	}
	var s unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &s)
	return err == nil && uint64(s.Dev) == dev && s.Ino == ino
}

const priorityError = "<3>"

// ErrorPriority is what a line begins with that says to w why the program ends: "" where that is
// not the journal.
func ErrorPriority(w io.Writer) string {
	if toJournal(w) {
		return priorityError
	}
	return ""
}

// journalEncoder begins each line with its priority, as the journal takes it from what a service
// writes (sd-daemon(3)).
type journalEncoder struct{ zapcore.Encoder }

var journalLines = buffer.NewPool()

// Clone implements zapcore.Encoder.
func (e journalEncoder) Clone() zapcore.Encoder { return journalEncoder{e.Encoder.Clone()} }

// EncodeEntry implements zapcore.Encoder.
func (e journalEncoder) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	plain, err := e.Encoder.EncodeEntry(entry, fields)
	if err != nil {
		return nil, err
	}
	defer plain.Free()
	priority := "<6>" // info
	switch {
	case entry.Level >= zapcore.DPanicLevel:
		priority = "<2>" // critical
	case entry.Level == zapcore.ErrorLevel:
		priority = priorityError
	case entry.Level == zapcore.WarnLevel:
		priority = "<4>"
	case entry.Level == zapcore.DebugLevel:
		priority = "<7>"
	}
	out := journalLines.Get()
	for line := range bytes.Lines(plain.Bytes()) { // a stack trace has several
		out.AppendString(priority)
		_, _ = out.Write(line) // a buffer takes everything
	}
	return out, nil
}
