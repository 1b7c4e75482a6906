package check

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cluster"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

const (
	// checkTimeout bounds the look at one HMC or one sink. An HMC whose answers may take long
	// has so many times rest_timeout, at least.
	checkTimeout = 2 * time.Minute
	checkAnswers = 10
)

// Options are what Run needs.
type Options struct {
	Config  *config.Config
	Version string
	// Out gets what was found: a block of lines for each HMC and sink, when that is done with.
	Out io.Writer
	// Step is called with what is being done for an HMC or a sink, and with "" when that is
	// done with, by several goroutines. It may be nil.
	Step func(name, step string)
}

// Run does once what the daemon does all the time: it looks at the certificates of each HMC, logs
// on, looks at what the userid may have, connects the link, subscribes, logs off, and probes each
// sink without sending an event. It looks at the cluster of the log, and makes nothing there. What
// was found goes to Out; the error says what does not work, one line each. A userid and password
// that an HMC has refused are not tried again.
func Run(ctx context.Context, opts Options) error {
	var (
		findings []*finding
		turns    logonTurns
		known    = seen{open: len(opts.Config.HMCs)}
		errs     []error
	)
	start := func(name string, limit time.Duration, check func(context.Context, *finding)) {
		f := &finding{name: name, onStep: opts.Step, done: make(chan struct{})}
		findings = append(findings, f)
		go func() {
			defer close(f.done)
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			check(ctx, f)
			f.step("")
		}()
	}
	for _, c := range opts.Config.HMCs {
		start("hmc "+c.Name, max(checkTimeout, checkAnswers*c.RESTTimeout), func(ctx context.Context, f *finding) {
			checkHMC(ctx, f, c, &turns, &known, opts.Version)
		})
	}
	hmcs := slices.Clone(findings)
	for _, c := range opts.Config.Sinks {
		start("sink "+c.Name, checkTimeout, func(ctx context.Context, f *finding) {
			checkSink(ctx, f, c, opts.Version)
			f.step("")
			for _, h := range hmcs {
				<-h.done
			}
			known.matchers(f, "match", c.Match)
			known.matchers(f, "drop", c.Drop)
		})
	}
	if len(opts.Config.Rules) > 0 {
		start("rules", checkTimeout, func(_ context.Context, f *finding) {
			for _, h := range hmcs {
				<-h.done
			}
			for i := range opts.Config.Rules {
				known.matchers(f, "match", opts.Config.Rules[i].Match)
			}
		})
	}
	if j := opts.Config.Storage.JetStream; j != nil {
		start("storage.jetstream", checkTimeout, func(ctx context.Context, f *finding) {
			checkCluster(ctx, f, j, opts.Version)
		})
	}
	for _, f := range findings { // as they are configured, whichever is done first
		<-f.done
		_, _ = io.WriteString(opts.Out, f.String())
		errs = append(errs, f.err())
	}
	return errors.Join(errs...)
}

// checkCluster looks whether the cluster can keep the log, and makes nothing there.
func checkCluster(ctx context.Context, f *finding, j *config.JetStream, version string) {
	f.step("connecting")
	logon, err := sinks.NATSLogon(func() *config.NATSLogon { return &j.NATSLogon })
	var missing []string
	if err == nil {
		err = cluster.Check(ctx, cluster.Options{
			URLs: j.URLs, Logon: logon, Name: j.Name, Replicas: j.Replicas, Client: "hmcnotifyd/" + version,
			Missing: func(what string) { missing = append(missing, what) },
		})
	}
	switch {
	case err != nil:
		f.problem("%v", err)
	case len(missing) > 0:
		f.info("can be reached; the daemon makes what is missing, if it may: %s", strings.Join(missing, ", "))
	default:
		f.info("can be reached, and can keep the log %s", j.Name)
	}
}

// checkSink probes a sink.
func checkSink(ctx context.Context, f *finding, c config.Sink, version string) {
	f.step("connecting")
	defer leaveNoFile(&c)()
	sink, err := sinks.New(c, sinks.Options{Version: version})
	if err != nil {
		f.problem("%v", err)
		return
	}
	if err := errors.Join(sink.Probe(ctx), sink.Close()); err != nil {
		reason, code := sinks.ReasonOf(err)
		f.problem("%v (what to do: %s)", err, sinks.Advice(&c, reason, code))
		return
	}
	f.info("can be reached (%s; no event was sent)", sinks.RequestOf(&c))
}

// leaveNoFile returns what removes the file of a sink that makes one from now on, if nothing is in
// it: a check by somebody else than the daemon must not leave a file that the daemon cannot write
// to.
func leaveNoFile(c *config.Sink) func() {
	if c.Log == nil || c.Log.Output == config.OutputStdout || c.Log.Output == config.OutputStderr {
		return func() {}
	}
	path := c.Log.Output
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return func() {}
	}
	return func() {
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			_ = os.Remove(path)
		}
	}
}
