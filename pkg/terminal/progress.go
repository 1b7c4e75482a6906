package terminal

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// progressAfter is how long a command is silent before it tells a terminal how far it is,
	// and then how often.
	progressAfter = time.Second
	progressEvery = 200 * time.Millisecond
)

// Progress is a line on a terminal that changes.
type Progress struct {
	out      io.Writer
	terminal bool
	start    time.Time
	last     time.Time
	shown    bool
}

// Show prints how far something is, unless it has just begun or the line is a moment old. With now
// it prints it anyway.
func (p *Progress) Show(now bool, text string) {
	t := time.Now()
	if !p.terminal || (!now && (t.Sub(p.start) < progressAfter || t.Sub(p.last) < progressEvery)) {
		return
	}
	_, _ = fmt.Fprintf(p.out, "\r%s\x1b[K", text)
	p.last, p.shown = t, true
}

// Clear removes the line, to make room for something that stays.
func (p *Progress) Clear() {
	if p.shown {
		_, _ = fmt.Fprint(p.out, "\r\x1b[K")
		p.shown = false
	}
}

// NewProgress is a line on w, where that is a terminal, of something that begins now.
func NewProgress(w io.Writer) Progress {
	return Progress{out: w, terminal: Width(w) > 0, start: time.Now()}
}

// Waiting shows on w, where that is a terminal, what is waited for and for how long, until stop is
// called. stop takes the line away, and may be called again.
func Waiting(w io.Writer, what func() string) (stop func()) { return StartWaiting(w, what).Stop }

// WaitLine is the line that Waiting shows.
type WaitLine struct {
	// Stop takes the line away, and may be called again.
	Stop func()
	mu   sync.Mutex
	line Progress
}

// StartWaiting is Waiting where something else is written meanwhile.
func StartWaiting(w io.Writer, what func() string) *WaitLine {
	width := Width(w)
	l := &WaitLine{Stop: func() {}, line: NewProgress(w)}
	if width == 0 {
		return l
	}
	end := make(chan struct{})
	var showing sync.WaitGroup
	showing.Go(func() {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-end:
				l.mu.Lock()
				defer l.mu.Unlock()
				l.line.Clear()
				return
			case <-tick.C:
			}
			l.mu.Lock()
			since := fmt.Sprintf(" (%d s)", time.Since(l.line.start)/time.Second)
			l.line.Show(false, OneLine(what(), max(10, width-len(since)-1))+since)
			l.mu.Unlock()
		}
	})
	l.Stop = sync.OnceFunc(func() {
		close(end)
		showing.Wait()
	})
	return l
}

// Above returns a writer to out, which may be the same terminal: the line makes room for what is
// written.
func (l *WaitLine) Above(out io.Writer) io.Writer { return aboveLine{l, out} }

type aboveLine struct {
	line *WaitLine
	out  io.Writer
}

// Write implements io.Writer.
func (a aboveLine) Write(p []byte) (int, error) {
	a.line.mu.Lock()
	defer a.line.mu.Unlock()
	a.line.line.Clear()
	return a.out.Write(p)
}

// Width returns how many characters a line of the terminal has; 0 if w is none.
func Width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	if size.Col == 0 {
		return 80 // a terminal that does not know
	}
	return int(size.Col)
}
