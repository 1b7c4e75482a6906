package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

// checkTimeout bounds the look at one HMC or one sink.
const checkTimeout = 2 * time.Minute

// CheckOptions are what Check needs.
type CheckOptions struct {
	Config  *config.Config
	Version string
	Out     io.Writer // gets what was found: a block of lines for each HMC and sink, when it is done with
	// Step is told what is being done for an HMC or a sink, and "" when it is done with; nil: nobody is. Several goroutines call it.
	Step func(name, step string)
}

// Check does once what the daemon does all the time: it looks at the certificates of each HMC, logs on, looks at what the userid may
// have, connects the link, subscribes, logs off, and probes each sink without sending an event. What was found goes to Out; the error
// says what does not work, one line each. A userid and password that an HMC has refused are not tried again.
func Check(ctx context.Context, opts CheckOptions) error {
	var (
		working sync.WaitGroup
		cfg     = opts.Config
		n       = len(cfg.HMCs) + len(cfg.Sinks)
		blocks  = make([]chan string, n)
		errs    = make([]error, n)
		turns   logonTurns
	)
	one := func(i int, name string, run func(context.Context, *finding)) {
		blocks[i] = make(chan string, 1)
		working.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, checkTimeout)
			defer cancel()
			f := &finding{name: name, tell: opts.Step}
			run(ctx, f)
			f.step("")
			errs[i] = errors.Join(f.problems...)
			blocks[i] <- f.said.String()
		})
	}
	for i, c := range cfg.HMCs {
		one(i, "hmc "+c.Name, func(ctx context.Context, f *finding) {
			check := hmcCheck{finding: f, cfg: c, turns: &turns}
			check.run(ctx, opts.Version)
		})
	}
	for i, c := range cfg.Sinks {
		one(len(cfg.HMCs)+i, "sink "+c.Name, func(ctx context.Context, f *finding) { checkSink(ctx, f, c, opts.Version) })
	}
	for _, block := range blocks { // as they are configured, whichever is done first
		_, _ = io.WriteString(opts.Out, <-block)
	}
	working.Wait()
	return errors.Join(errs...)
}

// finding is what was found about one HMC or sink.
type finding struct {
	name     string
	tell     func(name, step string)
	said     strings.Builder
	problems []error
}

// step tells what is being done now.
func (f *finding) step(format string, args ...any) {
	if f.tell != nil {
		f.tell(f.name, fmt.Sprintf(format, args...))
	}
}

func (f *finding) say(format string, args ...any) { f.lines(&f.said, f.name+": ", format, args...) }

// warn says what is no fault, but should not stay so.
func (f *finding) warn(format string, args ...any) {
	f.lines(&f.said, f.name+": warning: ", format, args...)
}

func (f *finding) lines(out *strings.Builder, prefix, format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		out.WriteString(prefix + event.Printable(line) + "\n")
	}
}

// problem notes what does not work.
func (f *finding) problem(format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		f.problems = append(f.problems, errors.New(f.name+": "+event.Printable(line)))
	}
}

// logonTurns keeps a userid and password that were refused from being tried a second time, on whichever HMC: those that share them
// take turns.
type logonTurns struct {
	mu    sync.Mutex
	turns map[[2]string]*logonTurn
}

type logonTurn struct {
	sync.Mutex // held while somebody logs on

	refusedBy string // the HMC's name; "": nobody has refused
}

func (t *logonTurns) of(cfg *config.HMC) *logonTurn {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := [2]string{cfg.Userid, cfg.Password.Expose()}
	if cfg.Session != nil {
		key = [2]string{cfg.Session.ID.Expose(), cfg.Session.Credential.Expose()}
	}
	if t.turns == nil {
		t.turns = make(map[[2]string]*logonTurn)
	}
	if t.turns[key] == nil {
		t.turns[key] = new(logonTurn)
	}
	return t.turns[key]
}

// checkSink probes a sink.
func checkSink(ctx context.Context, f *finding, c config.Sink, version string) {
	f.step("connecting")
	created := func() {}
	if c.Log != nil && c.Log.Output != config.OutputStdout && c.Log.Output != config.OutputStderr {
		created = removeIfCreated(c.Log.Output)
	}
	defer created()
	sink, err := sinks.New(c, sinks.Options{Version: version})
	if err != nil {
		f.problem("%v", err)
		return
	}
	if err := errors.Join(sink.Probe(ctx), sink.Close()); err != nil {
		f.problem("%v", err)
		return
	}
	f.say("can be reached (%s; no event was sent)", c.Request())
}

// removeIfCreated returns what removes a file that is made from now on, if nothing is in it: a check by somebody else than the daemon
// must not leave a file that the daemon cannot write to.
func removeIfCreated(path string) func() {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return func() {}
	}
	return func() {
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			_ = os.Remove(path)
		}
	}
}
