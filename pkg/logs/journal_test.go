package logs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap"
)

// Where stderr is the journal of systemd each line of the log has the priority of its level, an error that of an error; elsewhere
// none has one.
func TestJournalPriority(t *testing.T) {
	for _, format := range []string{"json", "console"} {
		for _, journal := range []bool{true, false} {
			path := filepath.Join(t.TempDir(), "stderr")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			info, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			s, ok := info.Sys().(*syscall.Stat_t)
			if !ok {
				t.Skip("no device and inode")
			}
			t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", s.Dev, s.Ino))
			if !journal { // another file than that of which the service manager speaks
				t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", s.Dev, s.Ino+1))
			}
			log, err := New(f, "debug", format)
			if err != nil {
				t.Fatal(err)
			}
			log = log.With(zap.String("hmc", "east"))
			log.Debug("d")
			log.Info("i")
			log.Warn("w")
			log.Error("e")
			log.Error("two lines", zap.Stack("stack"))
			func() {
				defer func() { _ = recover() }()
				log.DPanic("p")
			}()
			_, _ = fmt.Fprintln(f, ErrorPriority(f)+"the last line")
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for line := range strings.Lines(string(data)) {
				priority, rest, _ := strings.Cut(line, ">")
				if !strings.HasPrefix(priority, "<") || len(priority) != 2 || strings.HasPrefix(rest, "<") {
					priority = ""
				}
				got = append(got, priority)
			}
			want := []string{"<7", "<6", "<4", "<3", "<3", "<2", "<3"}
			if !journal {
				want = make([]string, len(want))
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s, journal %v: %q, want %q:\n%s", format, journal, got, want, data)
			}
		}
	}
}

// What is no file, or a program without a service manager, has no journal.
func TestNoJournal(t *testing.T) {
	for _, stream := range []string{"", "x", "1", "1:", "1:2"} {
		t.Setenv("JOURNAL_STREAM", stream)
		if toJournal(new(bytes.Buffer)) || toJournal(os.Stderr) {
			t.Errorf("%q is taken for a journal", stream)
		}
	}
}
