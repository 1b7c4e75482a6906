package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

// checkTimeout bounds the look at one HMC or one sink.
const checkTimeout = time.Minute

// Check does once what the daemon does all the time: it logs on to each HMC, connects the link, subscribes, logs off,
// and probes each sink without sending an event. What works is written to out, one line each; the error says what does
// not, one line each.
func Check(ctx context.Context, cfg *config.Config, version string, out io.Writer) error {
	var (
		mu      sync.Mutex
		working sync.WaitGroup
		errs    = make([]error, len(cfg.HMCs)+len(cfg.Sinks))
	)
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintf(out, format+"\n", args...)
	}
	for i, c := range cfg.HMCs {
		working.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, checkTimeout)
			defer cancel()
			if err := checkHMC(ctx, c, version, say); err != nil {
				errs[i] = prefixed("hmc "+c.Name, err)
			}
		})
	}
	for i, c := range cfg.Sinks {
		working.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, checkTimeout)
			defer cancel()
			if err := checkSink(ctx, c, version); err != nil {
				errs[len(cfg.HMCs)+i] = prefixed("sink "+c.Name, err)
				return
			}
			say("sink %s: can be reached (no event was sent)", c.Name)
		})
	}
	working.Wait()
	return errors.Join(errs...)
}

// prefixed puts a name in front of each line of an error.
func prefixed(name string, err error) error {
	lines := strings.Split(err.Error(), "\n")
	out := make([]error, len(lines))
	for i, line := range lines {
		out[i] = errors.New(name + ": " + line)
	}
	return errors.Join(out...)
}

func checkHMC(ctx context.Context, c config.HMC, version string, say func(string, ...any)) error {
	s, err := newSupervisor(c, nil, NewMetrics(prometheus.NewRegistry()), zap.NewNop(), version, defaultTiming())
	if err != nil {
		return err
	}
	defer s.leave(ctx)
	wanted, host, err := s.prepare(ctx)
	if err != nil {
		return errors.New(s.explain(err))
	}
	if s.session != nil {
		say("hmc %s: the Web Services API of %s accepts %s", c.Name, host, s.who())
		s.sayPartitions(ctx, say)
		s.sayHardware(ctx, say)
		s.noteListing("") // whether the channels can be opened is left to the daemon
	}
	rcv, err := s.connect(ctx, host, wanted)
	if err != nil {
		return errors.New(s.explain(err))
	}
	s.linkUp(rcv)
	say("hmc %s: the link to %s is up; topics subscribed: %s", c.Name, host, s.subscribedTopics())
	if until := s.status.certificate; !until.IsZero() {
		say("hmc %s: the certificate is valid until %s", c.Name, until.UTC().Format(time.DateOnly))
	}
	var errs []error
	for _, problem := range s.status.reasons() {
		errs = append(errs, errors.New(problem))
	}
	return errors.Join(errs...)
}

// sayPartitions says what the userid may see, and whose OS messages would be followed.
func (s *supervisor) sayPartitions(ctx context.Context, say func(string, ...any)) {
	var all []hmc.Partition
	for _, of := range partitionLists(s.session) {
		list, err := of.call(ctx)
		if err != nil {
			say("hmc %s: partitions could not be listed: %v", s.cfg.Name, err)
			continue
		}
		all = append(all, list...)
	}
	byCPC := make(map[string][]string)
	followed := 0
	for _, p := range all {
		name := p.Name
		if _, ok := s.wantsMessages(p.CPCName, p.Name); ok {
			name += "*"
			followed++
		}
		byCPC[p.CPCName] = append(byCPC[p.CPCName], name)
	}
	say("hmc %s: the userid may see %d partitions on %d CPCs; os_messages selects %d of them, marked *", s.cfg.Name, len(all), len(byCPC), followed)
	for _, cpc := range slices.Sorted(maps.Keys(byCPC)) {
		slices.Sort(byCPC[cpc])
		say("hmc %s: CPC %s: %s", s.cfg.Name, cpc, strings.Join(byCPC[cpc], ", "))
	}
}

func (s *supervisor) subscribedTopics() string {
	var kinds []string
	for _, t := range s.status.wanted {
		if t.problem == "" {
			kinds = append(kinds, t.kind)
		}
	}
	if len(kinds) == 0 {
		return "none"
	}
	slices.Sort(kinds)
	return strings.Join(kinds, ", ")
}

func checkSink(ctx context.Context, c config.Sink, version string) error {
	sink, err := sinks.New(c, sinks.Options{Version: version})
	if err != nil {
		return err
	}
	return errors.Join(sink.Probe(ctx), sink.Close())
}
