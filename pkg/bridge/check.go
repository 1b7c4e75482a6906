package bridge

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/watch"
)

// checkTimeout bounds the look at one HMC or one sink.
const checkTimeout = 2 * time.Minute

// CheckOptions are what Check needs.
type CheckOptions struct {
	Config  *config.Config
	Version string
	// Out gets what was found: a block of lines for each HMC and sink, when that is done with.
	Out io.Writer
	// Step is called with what is being done for an HMC or a sink, and with "" when that is done
	// with, by several goroutines. It may be nil.
	Step func(name, step string)
}

// Check does once what the daemon does all the time: it looks at the certificates of each HMC, logs
// on, looks at what the userid may have, connects the link, subscribes, logs off, and probes each
// sink without sending an event. What was found goes to Out; the error says what does not work, one
// line each. A userid and password that an HMC has refused are not tried again.
func Check(ctx context.Context, opts CheckOptions) error {
	var (
		working  sync.WaitGroup
		findings []*status.Finding
		done     []chan struct{}
		turns    watch.LogonTurns
		errs     []error
	)
	start := func(name string, check func(context.Context, *status.Finding)) {
		f, end := &status.Finding{Name: name, OnStep: opts.Step}, make(chan struct{})
		findings, done = append(findings, f), append(done, end)
		working.Go(func() {
			defer close(end)
			ctx, cancel := context.WithTimeout(ctx, checkTimeout)
			defer cancel()
			check(ctx, f)
			f.Step("")
		})
	}
	for _, c := range opts.Config.HMCs {
		start("hmc "+c.Name, func(ctx context.Context, f *status.Finding) {
			watch.Check(ctx, f, c, &turns, opts.Version)
		})
	}
	for _, c := range opts.Config.Sinks {
		start("sink "+c.Name, func(ctx context.Context, f *status.Finding) {
			checkSink(ctx, f, c, opts.Version)
		})
	}
	for i, f := range findings { // as they are configured, whichever is done first
		<-done[i]
		_, _ = io.WriteString(opts.Out, f.String())
		errs = append(errs, f.Err())
	}
	working.Wait()
	return errors.Join(errs...)
}

// checkSink probes a sink.
func checkSink(ctx context.Context, f *status.Finding, c config.Sink, version string) {
	f.Step("connecting")
	created := func() {}
	if c.Log != nil && c.Log.Output != config.OutputStdout && c.Log.Output != config.OutputStderr {
		created = removeIfCreated(c.Log.Output)
	}
	defer created()
	sink, err := sinks.New(c, sinks.Options{Version: version})
	if err != nil {
		f.Problem("%v", err)
		return
	}
	if err := errors.Join(sink.Probe(ctx), sink.Close()); err != nil {
		reason, code := sinks.ReasonOf(err)
		f.Problem("%v (what to do: %s)", err, sinks.Advice(&c, reason, code))
		return
	}
	f.Info("can be reached (%s; no event was sent)", c.Request())
}

// removeIfCreated returns what removes a file that is made from now on, if nothing is in it: a
// check by somebody else than the daemon must not leave a file that the daemon cannot write to.
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
