package logs

import (
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// linesAtOnce is how many lines of one kind are written in firstWindow. What follows is
	// counted, and told in one line at the end of the window; the next one is twice as long, up
	// to lastWindow, until there is one with no more than that.
	linesAtOnce = 10
	firstWindow = 10 * time.Second
	lastWindow  = 5 * time.Minute
	// maxKinds bounds the kinds of lines; further ones share one.
	maxKinds = 2000
)

// throttled is a core that keeps the log from repeating itself, whoever makes it: an HMC, a sink or
// somebody at the web port, each of which can cause a line by a packet. A kind of line is its
// message, with the HMC, the sink or the warning that it is about. Debug is not throttled.
type throttled struct {
	zapcore.Core
	all *kinds
	// what the lines are about
	of string
}

// kinds are the kinds of lines that were written lately.
type kinds struct {
	mu    sync.Mutex
	kinds map[string]*kind
}

type kind struct {
	window time.Duration
	timer  *time.Timer
	// in this window
	lines int
	// left out in this window, and the last of them
	out    int
	last   zapcore.Entry
	fields []zapcore.Field
	core   zapcore.Core
}

func newThrottled(c zapcore.Core) zapcore.Core {
	return &throttled{Core: c, all: &kinds{kinds: make(map[string]*kind)}}
}

// With implements zapcore.Core.
func (t *throttled) With(fields []zapcore.Field) zapcore.Core {
	return &throttled{Core: t.Core.With(fields), all: t.all, of: t.of + subject(fields)}
}

// subject is what the fields say that a line is about.
func subject(fields []zapcore.Field) (of string) {
	for i := range fields {
		if f := &fields[i]; f.Type == zapcore.StringType && (f.Key == "hmc" || f.Key == "sink" || f.Key == "warning") {
			of += "\x00" + f.String
		}
	}
	return of
}

// Check implements zapcore.Core.
func (t *throttled) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if t.Enabled(e.Level) {
		return ce.AddCore(e, t)
	}
	return ce
}

// Write implements zapcore.Core.
func (t *throttled) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if e.Level > zapcore.DebugLevel && !t.all.due(t, e, fields) {
		return nil
	}
	return t.Core.Write(e, fields)
}

// Sync implements zapcore.Core. It writes what is to be said of the lines that were left out.
func (t *throttled) Sync() error {
	t.all.mu.Lock()
	for name, k := range t.all.kinds {
		k.timer.Stop()
		k.tell()
		delete(t.all.kinds, name)
	}
	t.all.mu.Unlock()
	return t.Core.Sync()
}

// due says whether a line is to be written now.
func (a *kinds) due(t *throttled, e zapcore.Entry, fields []zapcore.Field) bool {
	name := e.Message + t.of + subject(fields)
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.kinds[name]
	if k == nil && len(a.kinds) >= maxKinds {
		name = ""
		k = a.kinds[name]
	}
	if k == nil {
		k = &kind{window: firstWindow}
		k.timer = time.AfterFunc(k.window, func() { a.windowEnds(name, k) })
		a.kinds[name] = k
	}
	k.lines++
	if k.lines <= linesAtOnce && k.window == firstWindow {
		return true
	}
	k.out++
	k.last, k.fields, k.core = e, fields, t.Core
	return false
}

// windowEnds tells what was left out, and begins the next window or forgets the kind.
func (a *kinds) windowEnds(name string, k *kind) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.kinds[name] != k {
		return // Sync was first
	}
	k.tell()
	if k.lines <= linesAtOnce {
		delete(a.kinds, name)
		return
	}
	k.lines, k.out = 0, 0
	k.window = min(2*k.window, lastWindow)
	k.timer.Reset(k.window)
}

// tell writes the last line that was left out, with how many there were.
func (k *kind) tell() {
	if k.out > 0 {
		_ = k.core.Write(k.last, append(slices.Clip(k.fields), zap.Int("lines_left_out", k.out)))
	}
}
