package sinks

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// alertsPerRequest is what Prometheus sends at most by default.
	alertsPerRequest = 256

	// maxAlertEvents is how many events one Send takes: what they say of the same alert is one
	// alert.
	maxAlertEvents = 1024

	// endsAfter is how many intervals an alert lasts that is not sent again, as with
	// Prometheus.
	endsAfter = 4

	// othersTimeout is how much longer the other members of the cluster are waited for when one
	// has accepted: one that hangs must not hold up what the next event says. It hears it at
	// the next Repeat.
	othersTimeout = time.Second
)

// alertmanager keeps alerts firing in the members of a cluster of Alertmanagers, and ends them.
type alertmanager struct {
	members  []*endpoint
	client   *httpClient
	header   http.Header
	timeout  time.Duration
	interval time.Duration
	store    Store
	// generator is the address of the daemon; "": it is not known.
	generator string

	// turns are those of requests about the same alert.
	turns turns

	// loading is done once the sink is used: the one before it may have stored something until
	// then.
	loading sync.Once

	mu   sync.Mutex
	book alertBook
	// gone are forgotten, and to be removed from the store.
	gone map[string]bool
}

func newAlertmanager(cfg config.Sink, opts Options) (Sink, error) {
	c := cfg.Alertmanager
	if len(c.URLs) == 0 {
		return nil, errors.New("alertmanager: no urls")
	}
	s := &alertmanager{
		timeout:  timeoutOf(cfg),
		interval: cmp.Or(max(c.ResendInterval, 0), time.Minute),
		store:    opts.Store, generator: opts.ExternalURL,
		header: newHeader(opts, "application/json"),
		gone:   make(map[string]bool),
		book: alertBook{
			names: c.Alerts, statuses: c.Statuses, labels: c.Labels, selects: opts.Selects,
			osResolve: cmp.Or(max(c.OSMessageResolve, 0), time.Hour), alerts: make(map[string]*alert),
		},
	}
	if s.book.selects == nil {
		s.book.selects = func(event.Record) bool { return true }
	}
	var err error
	s.client, err = newHTTPClient(c.HTTPConfig, clientOptions{
		timeout: s.timeout, concurrency: max(cfg.Concurrency, 1) + 1, userAgent: userAgent(opts.Version),
	})
	if err != nil {
		return nil, fmt.Errorf("alertmanager: %w", err)
	}
	for _, address := range c.URLs {
		u := httpURL(address)
		if u == nil || u.User != nil {
			return nil, errors.New("alertmanager: one of urls is not an http or https address without userid")
		}
		u.Path, u.RawPath = strings.TrimRight(u.Path, "/")+"/api/v2/alerts", ""
		s.members = append(s.members, newEndpoint("alertmanager", u, s.timeout, s.client))
	}
	return s, nil
}

// load reads what was known when the daemon ended.
func (s *alertmanager) load() {
	if s.store == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store.Range(func(key string, value []byte) bool {
		a := new(alert)
		if json.Unmarshal(value, a) != nil || len(a.Labels) == 0 {
			s.gone[key] = true // of no use, and sent again with the next change
			return true
		}
		if a.Annotations == nil {
			a.Annotations = make(map[string]string)
		}
		a.version, a.stored = 1, 1
		s.book.alerts[key] = a
		return true
	})
	s.book.configured(time.Now())
}

// MaxBatch returns how many events one Send takes.
func (s *alertmanager) MaxBatch() (records, bytes int) { return maxAlertEvents, maxBatchBytes }

// Wants says whether an event can make an alert fire, or end one.
func (s *alertmanager) Wants(rec event.Record) bool { return s.book.concerns(rec.Type) }

// RepeatInterval returns how often what fires has to be sent again.
func (s *alertmanager) RepeatInterval() time.Duration { return s.interval }

// Follow ends the alerts of HMCs that are not configured any more. The next Repeat reports them as
// ended.
func (s *alertmanager) Follow(groups map[string]string) {
	s.loading.Do(s.load)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.book.follow(groups, time.Now())
}

// Send reports what the events have changed, as it is after all of them.
func (s *alertmanager) Send(ctx context.Context, records []event.Record) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	start := time.Now()
	// What others wait for is kept short.
	events := make([]*event.Event, len(records))
	var unreadable []error
	for i := range records {
		if !s.book.concerns(records[i].Type) {
			continue
		}
		var err error
		if events[i], err = records[i].Event(); err != nil {
			if unreadable == nil {
				unreadable = make([]error, len(records))
			}
			unreadable[i] = &PermanentError{Err: fmt.Errorf("alertmanager: %w", err)}
		}
	}
	err := s.tell(ctx, start, records, events)
	if unreadable == nil {
		return err
	}
	if _, ok := errors.AsType[*PermanentError](err); ok {
		err = ErrNotJudged // one of the others may be the reason
	}
	for i := range unreadable {
		unreadable[i] = cmp.Or(unreadable[i], err)
	}
	return eventsError(unreadable)
}

// tell reports what events have changed; nil is one that changes nothing.
func (s *alertmanager) tell(ctx context.Context, start time.Time, records []event.Record, events []*event.Event) error {
	var keys []string
	s.mu.Lock()
	for i, e := range events {
		if e == nil {
			continue
		}
		touched, ok := s.book.apply(e, records[i], start)
		if !ok {
			s.mu.Unlock()
			err := fmt.Errorf("alertmanager: more than %d alerts", maxAlerts)
			return &PermanentError{Status: http.StatusRequestEntityTooLarge, Err: err}
		}
		keys = append(keys, touched...)
	}
	s.mu.Unlock()
	if len(keys) == 0 {
		return nil
	}
	return s.exclusive(ctx, keys, func(ctx context.Context) error {
		_, err := s.post(ctx, start, keys, false)
		refusal, ok := errors.AsType[*PermanentError](err)
		if ok && len(records) == 1 && refusal.Status == http.StatusBadRequest {
			// Or it would be refused again, with others, by each Repeat.
			s.forget(keys)
		}
		if err != nil {
			return err
		}
		return s.remember(ctx, keys)
	})
}

// usable says whether there is any use in going on.
func (s *alertmanager) usable(ctx context.Context) error {
	if s.client.conns.closed() {
		return fmt.Errorf("alertmanager: %w", ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("alertmanager: %w", err)
	}
	s.loading.Do(s.load)
	return nil
}

// exclusive makes one attempt while nobody else makes requests about alerts of these keys; nil:
// about any.
func (s *alertmanager) exclusive(ctx context.Context, keys []string, f func(context.Context) error) error {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	for busy := s.turns.take(keys); busy != nil; busy = s.turns.take(keys) {
		select {
		case <-busy:
		case <-ctx.Done():
			s.turns.leave(keys)
			return fmt.Errorf("%s: %w", s.members[0].name, ended(ctx, noAnswer, start))
		case <-s.client.conns.ctx.Done():
			s.turns.leave(keys)
			return fmt.Errorf("alertmanager: %w", ErrClosed)
		}
	}
	defer s.turns.end(keys)
	return f(ctx)
}

// turns sees to it that what an earlier request says of an alert does not arrive behind a later
// one.
type turns struct {
	mu sync.Mutex
	// keys are what requests are about.
	keys map[string]bool
	// all says that somebody makes requests about all.
	all bool
	// waiting says that somebody wants to, and that nobody is let in before.
	waiting bool
	// changed is closed when a request has ended.
	changed chan struct{}
}

// take takes the keys, nil stands for all; or returns what is closed when it is worth while to try
// again.
func (t *turns) take(keys []string) (busy <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		t.changed, t.keys = make(chan struct{}), make(map[string]bool)
	}
	if keys == nil {
		if t.all || len(t.keys) > 0 {
			t.waiting = true
			return t.changed
		}
		t.all, t.waiting = true, false
		return nil
	}
	if t.all || t.waiting || slices.ContainsFunc(keys, func(key string) bool { return t.keys[key] }) {
		return t.changed
	}
	for _, key := range keys {
		t.keys[key] = true
	}
	return nil
}

// end gives back what was taken.
func (t *turns) end(keys []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if keys == nil {
		t.all = false
	}
	for _, key := range keys {
		delete(t.keys, key)
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

// leave says that nobody waits for these keys any more.
func (t *turns) leave(keys []string) {
	if keys == nil {
		t.mu.Lock()
		t.waiting = false
		t.mu.Unlock()
		t.end([]string{})
	}
}

// Repeat reports everything that fires, and what has ended a short time ago.
func (s *alertmanager) Repeat(ctx context.Context) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	start := time.Now()
	return s.exclusive(ctx, nil, func(ctx context.Context) error {
		s.mu.Lock()
		for _, key := range s.book.expire(start) {
			s.gone[key] = true
		}
		keys := slices.Sorted(maps.Keys(s.book.alerts))
		s.mu.Unlock()
		partial, err := s.post(ctx, start, keys, true)
		if err != nil {
			return err
		}
		return cmp.Or(s.remember(ctx, keys), partial)
	})
}

// snapshot is an alert as a request has it.
type snapshot struct {
	key     string
	version int
	wire    wireAlert
}

// post sends the alerts of these keys to all members; those that all of them know only if all are
// asked for. It is enough if one member accepts them; what the others say is partial then. The
// caller has the turn of the keys.
func (s *alertmanager) post(ctx context.Context, now time.Time, keys []string, all bool) (partial, err error) {
	var shots []snapshot
	sent := make(map[string]bool)
	s.mu.Lock()
	for _, key := range keys {
		a := s.book.alerts[key]
		if a == nil || sent[key] || !all && a.posted == a.version {
			continue
		}
		sent[key] = true
		shots = append(shots, snapshot{key: key, version: a.version, wire: a.wire(now, endsAfter*s.interval)})
	}
	s.mu.Unlock()
	slow := make(map[*endpoint]bool) // waited for with one piece, not with each
	for piece := range slices.Chunk(shots, alertsPerRequest) {
		p, err := s.postAll(ctx, piece, slow)
		if err != nil {
			return nil, err
		}
		partial = cmp.Or(partial, p)
		s.mu.Lock()
		for i := range piece {
			if a := s.book.alerts[piece[i].key]; a != nil {
				a.posted = max(a.posted, piece[i].version)
			}
		}
		s.mu.Unlock()
	}
	return partial, nil
}

// postAll makes one request of each member. Those that are slow are not waited for when another one
// has accepted; which those are it finds out.
func (s *alertmanager) postAll(
	ctx context.Context, shots []snapshot, slow map[*endpoint]bool,
) (partial, err error) {
	alerts := make([]wireAlert, len(shots))
	for i := range shots {
		alerts[i] = shots[i].wire
		alerts[i].GeneratorURL = s.generator
	}
	body, err := json.Marshal(alerts)
	if err != nil {
		return nil, &PermanentError{Err: fmt.Errorf("alertmanager: %w", err)}
	}
	others, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		from *endpoint
		err  error
		late bool
	}
	answers := make(chan answer, len(s.members))
	for _, m := range s.members {
		go func() {
			a := answer{from: m}
			a.err = m.send(others, func(attempt context.Context) *http.Request {
				return m.request(attempt, maps.Clone(s.header), body)
			}, nil)
			if a.err != nil && others.Err() != nil && ctx.Err() == nil && !s.client.conns.closed() {
				a.late = true
				a.err = because(ReasonTimeout, "%s: no answer within %s of that of another member",
					m.name, othersTimeout)
			}
			answers <- a
		}()
	}
	var failed []error
	accepted, awaited := false, len(s.members)-len(slow)
	for range s.members {
		a := <-answers
		if !slow[a.from] {
			awaited--
		}
		if a.late {
			slow[a.from] = true
		}
		if a.err != nil {
			failed = append(failed, a.err)
		} else if !accepted {
			accepted = true
			defer time.AfterFunc(othersTimeout, cancel).Stop()
		}
		if accepted && awaited == 0 {
			cancel()
		}
	}
	if accepted {
		if len(failed) > 0 {
			return &PartialError{Err: errors.Join(failed...)}, nil
		}
		return nil, nil
	}
	return nil, worst(failed)
}

// worst joins the errors of all members into one error: that of one which may accept it later, else
// of one that takes nothing as it is, if there is such a one.
func worst(failed []error) error {
	slices.SortStableFunc(failed, func(x, y error) int { return refusals(x) - refusals(y) })
	if len(failed) == 1 {
		return failed[0]
	}
	// What else is among them must not count, so that it is text.
	texts := make([]error, len(failed)-1)
	for i, err := range failed[1:] {
		texts[i] = errors.New(err.Error())
	}
	all := func(first error) error {
		return fmt.Errorf("%w (all members failed: %w)", first, errors.Join(texts...))
	}
	switch e := failed[0].(type) { //nolint:errorlint // as it was made
	case *RetryAfterError:
		return &RetryAfterError{Status: e.Status, After: e.After, Err: all(e.Err)}
	case *PausedError:
		return &PausedError{Status: e.Status, Err: all(e.Err)}
	case *PermanentError:
		return &PermanentError{Status: e.Status, Err: all(e.Err)}
	}
	return all(failed[0])
}

func refusals(err error) int {
	if _, ok := errors.AsType[*PermanentError](err); ok {
		return 2
	}
	if _, ok := errors.AsType[*PausedError](err); ok {
		return 1
	}
	return 0
}

// remember stores what Alertmanager knows now.
func (s *alertmanager) remember(ctx context.Context, keys []string) error {
	if s.store == nil {
		return nil
	}
	values, versions := make(map[string][]byte), make(map[string]int)
	s.mu.Lock()
	for key := range s.gone {
		if s.book.alerts[key] == nil {
			values[key] = nil
		}
	}
	for _, key := range keys {
		a := s.book.alerts[key]
		if a == nil || a.stored == a.version {
			continue
		}
		if data, err := json.Marshal(a); err == nil { // strings and times
			values[key], versions[key] = data, a.version
		}
	}
	s.mu.Unlock()
	if len(values) == 0 {
		return nil
	}
	if err := s.store.Put(ctx, values); err != nil {
		return fmt.Errorf("alertmanager: which alerts there are could not be stored: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, value := range values {
		if value == nil {
			delete(s.gone, key)
		} else if a := s.book.alerts[key]; a != nil {
			a.stored = max(a.stored, versions[key])
		}
	}
	return nil
}

// forget drops alerts that Alertmanager has refused and never known.
func (s *alertmanager) forget(keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		if a := s.book.alerts[key]; a != nil && a.posted == 0 {
			delete(s.book.alerts, key)
			s.gone[key] = true
		}
	}
}

// Probe connects to each member.
func (s *alertmanager) Probe(ctx context.Context) error {
	var errs []error
	for _, m := range s.members {
		errs = append(errs, m.Probe(ctx))
	}
	return errors.Join(errs...)
}

// Close ends every connection, and with it every request.
func (s *alertmanager) Close() error {
	s.client.close()
	return nil
}
