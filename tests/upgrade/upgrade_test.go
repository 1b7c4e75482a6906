package upgrade_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// eachFixture calls do for each fixture, with a directory of its own.
func eachFixture(t *testing.T, do func(t *testing.T, fix *fixture, dir string)) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixture (%v)", err)
	}
	for _, path := range files {
		name := strings.TrimSuffix(path, ".json")
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			fix := new(fixture)
			if err := json.Unmarshal(data, fix); err != nil {
				t.Fatal(err)
			}
			do(t, fix, unpack(t, name+".tar.gz"))
		})
	}
}

// TestState reads what is stored of everything that is known.
func TestState(t *testing.T) {
	eachFixture(t, func(t *testing.T, fix *fixture, dir string) {
		got := make(map[string]string)
		for key, value := range stateOf(t, dir) {
			got[key] = sum(value)
		}
		for _, key := range slices.Sorted(maps.Keys(fix.State)) {
			if got[key] != fix.State[key] {
				t.Errorf("state %q has the checksum %q, not %q", key, got[key], fix.State[key])
			}
		}
		if len(got) != len(fix.State) {
			t.Errorf("%d keys, not %d", len(got), len(fix.State))
		}
	})
}

// TestUpgrade opens the directories that earlier builds have written, with HMCs that hold what those
// held, and some more that happened meanwhile. Of what was known nothing is delivered again, what
// waited arrives once, in order and unchanged, and so does what is new. The gap begins at the last
// contact, and alerts that fire go on and resolve.
func TestUpgrade(t *testing.T) {
	eachFixture(t, func(t *testing.T, fix *fixture, dir string) {
		u := &upgraded{
			t: t, fix: fix, east: startHMC(t, "east", fix.Made), west: startHMC(t, "west", fix.Made),
			ops: startHook(t), siem: startHook(t), alerts: startAlertmanager(t),
		}
		for _, s := range fix.History {
			u.console(s.HMC).do(t, s)
		}
		u.meanwhile()
		u.start(dir)
		u.goOn()
		u.judge()
		u.letters()
		u.judgeAlerts()
		u.stop()
	})
}

// upgraded is a daemon that goes on with a fixture.
type upgraded struct {
	t          *testing.T
	fix        *fixture
	east, west *console
	ops, siem  *hook
	alerts     *alertmanager

	dir     string
	bridge  *bridge.Bridge
	started time.Time
	cancel  context.CancelFunc
	done    chan error
	// expected is what the events that are new tell.
	expected []string
}

func (u *upgraded) console(name string) *console {
	if name == "west" {
		return u.west
	}
	return u.east
}

func (u *upgraded) expect(format string, args ...any) {
	u.expected = append(u.expected, fmt.Sprintf(format, args...))
}

// signature is what is looked at of an event that is new.
func signature(a *arrival) string {
	what := a.text()
	switch a.Type {
	case event.TypePropertyChange, event.TypeStatusChange:
		for report := range event.Elements(event.Member(a.Body, "change-reports")) {
			what = event.String(event.Member(report, "new-value")) + event.String(event.Member(report, "new-status"))
		}
		if strings.Contains(a.Summary, "(degraded for ") {
			what += ", it had lasted"
		}
	case event.TypeHardwareMessage:
		what = fmt.Sprintf("deleted %v", event.True(event.Member(a.Body, "deleted")))
	}
	return strings.TrimRight(strings.Join([]string{a.HMC, a.Type, a.Origin, a.Resource.Name, what}, " "), " ")
}

// meanwhile is what happened while no daemon was there.
func (u *upgraded) meanwhile() {
	now := time.Now()
	// Version 0.1.0 took the second of two equal entries for a repetition.
	u.expect("east log-entry backfill  delivered 2")
	for name, origin := range map[string]string{"east": event.OriginRefresh, "west": event.OriginBackfill} {
		c := u.console(name)
		for i, p := range c.sim.Partitions() {
			text := fmt.Sprintf("while nobody was there %d", i)
			c.do(u.t, step{At: now, HMC: name, Do: doMessages, Object: p.ID, Text: []string{text}})
			if i != 2 {
				u.expect("%s os-message %s %s %s", name, origin, p.Name, text)
			}
		}
		c.do(u.t, step{At: now, HMC: name, Do: doLog, Object: hmcsim.TopicAudit, Text: []string{"while nobody was there"}})
		u.expect("%s log-entry backfill  while nobody was there", name)
		p := c.sim.Partitions()[2]
		c.do(u.t, step{At: now, HMC: name, Do: doRename, Object: p.ID, Text: []string{"OTHER"}})
		u.expect("%s property-change reconcile OTHER OTHER", name)
		u.expect("%s os-message %s OTHER while nobody was there 2", name, origin)
	}
}

// start starts the daemon.
func (u *upgraded) start(storage string) {
	t := u.t
	u.dir, u.started = t.TempDir(), time.Now()
	path := filepath.Join(u.dir, "hmcnotifyd.yaml")
	text := configuration(u.east, u.west, u.ops.server.URL, u.siem.server.URL, u.alerts.server.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := os.Create(filepath.Join(u.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(logs), zap.DebugLevel)
	u.bridge, err = bridge.New(bridge.Options{
		Config: cfg, StoragePath: storage, Logger: zap.New(core), Version: "test", Stdout: io.Discard, Stderr: io.Discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	u.cancel, u.done = cancel, make(chan error, 1)
	go func() { u.done <- u.bridge.Run(ctx) }()
	t.Cleanup(func() {
		u.stop()
		if err := logs.Close(); err != nil {
			t.Error(err)
		}
		if text, err := os.ReadFile(logs.Name()); err == nil && t.Failed() {
			t.Logf("the daemon's log:\n%s", text)
		}
	})
}

// stop ends the daemon. Calling it again does nothing.
func (u *upgraded) stop() {
	if u.cancel == nil {
		return
	}
	u.cancel()
	u.cancel = nil
	if err := <-u.done; err != nil {
		u.t.Errorf("Run: %v", err)
	}
}

func (u *upgraded) journal() []arrival { return journal(u.t, filepath.Join(u.dir, "events.log")) }

// goOn waits until the daemon has done what there was to do, and has it do some more.
func (u *upgraded) goOn() {
	t := u.t
	for _, name := range []string{"east", "west"} {
		u.expect("%s bridge-connected bridge", name)
		u.expect("%s bridge-gap bridge", name)
	}
	u.awaitEvents()

	east := u.east.sim.Partitions()
	u.east.change(east[1], "and on it goes")
	u.expect("east property-change live %s and on it goes", east[1].Name)
	now := time.Now()
	u.east.do(t, step{At: now, Do: doMessages, Object: east[1].ID, Text: []string{"and on it goes"}})
	u.expect("east os-message live %s and on it goes", east[1].Name)
	u.east.do(t, step{At: now, Do: doLog, Object: hmcsim.TopicAudit, Text: []string{"and on it goes"}})
	u.expect("east log-entry live  and on it goes")
	u.east.do(t, step{At: now, Do: doStatus, Object: east[0].ID, Text: []string{good(east[0])}})
	// The HMC says it twice. Since when the partition was degraded is known from before.
	u.expect("east status-change live %s %s, it had lasted", east[0].Name, good(east[0]))
	u.expect("east status-change live %s %s", east[0].Name, good(east[0]))
	if err := u.east.sim.DeleteHardwareMessages(""); err != nil {
		t.Fatal(err)
	}
	// The console is told of in a notification of its own.
	u.expect("east property-change live east")
	u.expect("east hardware-message live east deleted true")
	u.awaitEvents()
	await(t, "delivered", func() error {
		for _, s := range u.bridge.Status().Sinks {
			if s.QueueEvents > 0 {
				return fmt.Errorf("%d events wait for %s", s.QueueEvents, s.Name)
			}
		}
		return nil
	})
	time.Sleep(time.Second) // in which nothing more comes
}

// awaitEvents waits for the new events that are expected.
func (u *upgraded) awaitEvents() {
	u.t.Helper()
	await(u.t, "new events", func() error {
		if wrong := compare(signatures(u.journal()), u.expected); wrong != "" {
			return errors.New(wrong)
		}
		return nil
	})
}

// signatures are those of events, but for the daemon's own logons.
func signatures(events []arrival) (out []string) {
	for i := range events {
		if !events[i].ownLogon() {
			out = append(out, signature(&events[i]))
		}
	}
	return out
}

// compare says in what two lists differ, whatever their order.
func compare(got, want []string) string {
	counts := make(map[string]int)
	for _, s := range got {
		counts[s]++
	}
	for _, s := range want {
		counts[s]--
	}
	var out []string
	for _, s := range slices.Sorted(maps.Keys(counts)) {
		if n := counts[s]; n != 0 {
			out = append(out, fmt.Sprintf("%+d x %q", n, s))
		}
	}
	return strings.Join(out, ", ")
}

// judge looks at what has arrived.
func (u *upgraded) judge() {
	t, fix := u.t, u.fix
	sums := make(map[string]string)
	for _, s := range fix.Stored {
		sums[s.ID] = s.Sum
	}
	// The log has got all that was stored before.
	var fresh []arrival
	for _, a := range u.journal() {
		if sums[a.ID] != "" {
			t.Errorf("journal: delivered again: %s", a.raw)
		}
		sums[a.ID] = sum(a.raw)
		fresh = append(fresh, a)
	}
	if wrong := compare(signatures(fresh), u.expected); wrong != "" {
		t.Errorf("the events that are new are not those that are expected: %s", wrong)
	}
	u.gaps(fresh)

	for name, h := range map[string]*hook{"ops": u.ops, "siem": u.siem} {
		want := slices.Clone(fix.Waiting[name])
		for i := range fresh {
			if name == "ops" || slices.Contains([]string{event.TypeOSMessage, event.TypeLogEntry, event.TypeStatusChange, event.TypeBridgeGap}, fresh[i].Type) {
				want = append(want, fresh[i].ID)
			}
		}
		place := make(map[string]int)
		for i, id := range want {
			place[id] = i
		}
		last := make(map[string]int) // by what the order is kept of
		seen := make(map[string]bool)
		for _, a := range h.got() {
			i, known := place[a.ID]
			switch {
			case !known:
				t.Errorf("%s: had been delivered: %s", name, a.raw)
				continue
			case seen[a.ID]:
				t.Errorf("%s: delivered twice: %s", name, a.raw)
			case sum(a.raw) != sums[a.ID]:
				t.Errorf("%s: not as it was stored: %s", name, a.raw)
			}
			seen[a.ID] = true
			lane := a.lane()
			if name == "ops" {
				lane = "" // it takes one event at a time
			}
			if i < last[lane] {
				t.Errorf("%s: comes after %s: %s", name, want[last[lane]], a.raw)
			}
			last[lane] = i
		}
		for _, id := range want {
			if !seen[id] {
				t.Errorf("%s: not delivered: %s", name, id)
			}
		}
	}
}

// gaps looks at the times of the gaps that were reported.
func (u *upgraded) gaps(fresh []arrival) {
	for i := range fresh {
		a := &fresh[i]
		if a.Type != event.TypeBridgeGap {
			continue
		}
		var g gap
		if err := json.Unmarshal(a.Body, &g); err != nil {
			u.t.Fatal(err)
		}
		from, causes := u.fix.LastContact[a.HMC], u.fix.Gaps[a.HMC].Causes
		if earlier, ok := u.fix.Gaps[a.HMC]; ok && earlier.From.Before(from) {
			from = earlier.From
		}
		if u.fix.Killed {
			causes = append(causes, "the daemon ended without notice")
		}
		if !g.From.Equal(from.Truncate(time.Millisecond)) || g.To.Before(u.started) {
			u.t.Errorf("%s: a gap from %s to %s; the last contact was at %s, the daemon started at %s", a.HMC, g.From, g.To, from, u.started)
		}
		for _, cause := range causes {
			if !slices.Contains(g.Causes, cause) {
				u.t.Errorf("%s: a gap because of %q, not of %q", a.HMC, g.Causes, cause)
			}
		}
	}
}

// all calls a method that lists what a filter selects, with a filter that selects everything.
func all[Filter, Letter any](list func(Filter, string, int) ([]Letter, string, error)) ([]Letter, error) {
	var everything Filter
	letters, _, err := list(everything, "", 100)
	return letters, err
}

// letters looks at the dead letters.
func (u *upgraded) letters() {
	letters, err := all(u.bridge.DeadLetters)
	if err != nil {
		u.t.Fatal(err)
	}
	var got []deadLetter
	for _, l := range letters {
		got = append(got, deadLetter{ID: l.ID, Sink: l.Sink, EventID: l.EventID, Status: l.Status})
		whole, err := u.bridge.DeadLetter(l.ID)
		if err != nil {
			u.t.Error(err)
			continue
		}
		i := slices.IndexFunc(u.fix.Stored, func(s stored) bool { return s.ID == l.EventID })
		if i < 0 || u.fix.Stored[i].Sum != sum(whole.Event) {
			u.t.Errorf("dead letter %s: not as it was stored: %s", l.ID, whole.Event)
		}
	}
	if !slices.Equal(got, u.fix.DeadLetters) {
		u.t.Errorf("dead letters: %+v, not %+v", got, u.fix.DeadLetters)
	}
}

// judgeAlerts looks at the alerts: those that fired are known to Alertmanager from the daemon that
// goes on, since the same time. Those that have a reason to are resolved.
func (u *upgraded) judgeAlerts() {
	resolved := func(labels string) bool {
		switch {
		case strings.Contains(labels, "alertname=HMCOSMessage"): // ends by itself
			return time.Since(u.fix.Ended) > 719*time.Hour
		case strings.Contains(labels, "alertname=HMCHardwareMessage"):
			return strings.Contains(labels, "class=console")
		default:
			return true
		}
	}
	await(u.t, "alerts", func() error {
		all := u.alerts.all()
		for labels, since := range u.fix.Alerts {
			got, known := all[labels]
			switch {
			case !known:
				return fmt.Errorf("%s: Alertmanager was not told of it", labels)
			case resolved(labels) && !got.IsZero():
				return fmt.Errorf("%s: fires still", labels)
			case !resolved(labels) && !got.Equal(since):
				return fmt.Errorf("%s: fires since %s, not since %s", labels, got, since)
			}
		}
		if firing := u.alerts.firing(); len(firing) > len(u.fix.Alerts) {
			return fmt.Errorf("fire: %v", firing)
		}
		return nil
	})
}
