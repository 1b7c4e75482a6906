package main

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

// progress is a line on a terminal that changes.
type progress struct {
	out      io.Writer
	terminal bool
	start    time.Time
	last     time.Time
	shown    bool
}

// show prints how far something is, unless it has just begun or the line is a moment old. With now
// it prints it anyway.
func (p *progress) show(now bool, text string) {
	t := time.Now()
	if !p.terminal || (!now && (t.Sub(p.start) < progressAfter || t.Sub(p.last) < progressEvery)) {
		return
	}
	fmt.Fprintf(p.out, "\r%s\x1b[K", text)
	p.last, p.shown = t, true
}

// clear removes the line, to make room for something that stays.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.shown = false
	}
}

// newProgress is a line on w, where that is a terminal, of something that begins now.
func newProgress(w io.Writer) progress {
	return progress{out: w, terminal: terminalWidth(w) > 0, start: time.Now()}
}

// waiting shows on w, where that is a terminal, what is waited for and for how long, until stop is
// called. stop takes the line away, and may be called again.
func waiting(w io.Writer, what func() string) (stop func()) { return startWaiting(w, what).stop }

// waitLine is the line that waiting shows.
type waitLine struct {
	stop func()
	mu   sync.Mutex
	line progress
}

func startWaiting(w io.Writer, what func() string) *waitLine {
	width := terminalWidth(w)
	l := &waitLine{stop: func() {}, line: newProgress(w)}
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
				l.line.clear()
				return
			case <-tick.C:
			}
			l.mu.Lock()
			since := fmt.Sprintf(" (%d s)", time.Since(l.line.start)/time.Second)
			l.line.show(false, oneLine(what(), max(10, width-len(since)-1))+since)
			l.mu.Unlock()
		}
	})
	l.stop = sync.OnceFunc(func() {
		close(end)
		showing.Wait()
	})
	return l
}

// above returns a writer to out, which may be the same terminal: the line makes room for what is
// written.
func (l *waitLine) above(out io.Writer) io.Writer { return aboveLine{l, out} }

type aboveLine struct {
	line *waitLine
	out  io.Writer
}

// Write implements io.Writer.
func (a aboveLine) Write(p []byte) (int, error) {
	a.line.mu.Lock()
	defer a.line.mu.Unlock()
	a.line.line.clear()
	return a.out.Write(p)
}

// terminalWidth returns how many characters a line of the terminal has; 0 if w is none.
func terminalWidth(w io.Writer) int {
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
