package replay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

const liveHead = "hmcs: [{name: east, hosts: [h], userid: u, password: p}]\nsinks:\n- {name: all, log: {output: all.log}}\n"

func load(t *testing.T, text string) *config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// liveOf is where those are who read along in a queue.
func liveOf(t *testing.T, q *queue.Queue) *Live {
	t.Helper()
	cfg := load(t, liveHead+"- {name: some, log: {output: some.log}, match: [{severity: warning}], drop: [{name: TEST}]}\n")
	l := NewLive(History{q}, func() *config.Config { return cfg })
	t.Cleanup(l.End)
	return l
}

// reads returns a reader, and whether the event that it begins behind is known.
func reads(t *testing.T, l *Live, f LiveFilter) (*LiveReader, bool) {
	t.Helper()
	r, err := l.Read()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	known, err := r.Only(f)
	if err != nil {
		t.Fatal(err)
	}
	return r, known
}

// until returns the ids of what a reader gets up to one.
func until(t *testing.T, r *LiveReader, last string) (ids []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for {
		events, lost, err := r.Next(ctx)
		if err != nil || lost > 0 {
			t.Fatalf("after %d events: %d lost, %v", len(ids), lost, err)
		}
		for _, e := range events {
			if ids = append(ids, e.ID); e.ID == last {
				return ids
			}
		}
	}
}

// A reader begins where it wants to in what is stored, and goes on with what comes, with nothing left out or twice in between.
func TestLiveBegins(t *testing.T) {
	t.Parallel()
	q, began := stored(t)
	l := liveOf(t, q)
	for what, test := range map[string]struct {
		filter LiveFilter
		want   []string
	}{
		"with what comes":        {LiveFilter{}, nil},
		"at a time":              {LiveFilter{Since: began.Add(1500 * storedStep)}, idsFrom(1500, storedEvents, nil)},
		"long before":            {LiveFilter{Since: began.Add(-1000 * time.Hour)}, idsFrom(0, storedEvents, nil)},
		"later":                  {LiveFilter{Since: time.Now().Add(time.Hour)}, nil},
		"behind an event":        {LiveFilter{After: idOf(1700)}, idsFrom(1701, storedEvents, nil)},
		"behind the last":        {LiveFilter{After: idOf(storedEvents - 1)}, nil},
		"behind an unknown one":  {LiveFilter{After: "unknown"}, nil},
		"behind, whatever since": {LiveFilter{After: idOf(1990), Since: began, Last: 5}, idsFrom(1991, storedEvents, nil)},
	} {
		r, known := reads(t, l, test.filter)
		if known != (test.filter.After != "unknown") {
			t.Errorf("%s: known %t", what, known)
		}
		put(t, q, "new "+what)
		got := slices.DeleteFunc(until(t, r, "new "+what), func(id string) bool { return strings.HasPrefix(id, "new ") })
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %d events, want %d: %.100s", what, len(got), len(test.want), got)
		}
		r.Close()
	}
}

// The last events that the filter lets through come first, no more than were asked for.
func TestLiveLast(t *testing.T) {
	t.Parallel()
	q, _ := stored(t)
	l := liveOf(t, q)
	for what, test := range map[string]struct {
		filter LiveFilter
		want   []string
	}{
		"any":       {LiveFilter{Last: 3}, idsFrom(1997, storedEvents, nil)},
		"of a type": {LiveFilter{Last: 3, Type: patterns(t, event.TypeStatusChange)}, []string{idOf(1993), idOf(1996), idOf(1997)}},
		"too many":  {LiveFilter{Last: 10 * MaxLast}, idsFrom(storedEvents-MaxLast, storedEvents, nil)},
	} {
		r, _ := reads(t, l, test.filter)
		if got := until(t, r, test.want[len(test.want)-1]); !slices.Equal(got, test.want) {
			t.Errorf("%s: %s, want %s", what, got, test.want)
		}
	}
}

// A reader that is slow gets everything as long as it is stored, and is told how many are not.
func TestLiveSlowReader(t *testing.T) {
	t.Parallel()
	q := open(t, queue.Options{Dir: t.TempDir(), SegmentBytes: 64 << 10, CacheBytes: 1})
	c, err := q.Cursor("sink")
	if err != nil {
		t.Fatal(err)
	}
	l := liveOf(t, q)
	r, _ := reads(t, l, LiveFilter{})
	big := strings.Repeat("x", 2000)
	for range 300 {
		put(t, q, "event "+big)
	}
	for seq := uint64(0); seq < 290; {
		records, err := c.Next(t.Context(), 10, 0)
		if err != nil {
			t.Fatal(err)
		}
		seq = records[len(records)-1].Seq
	}
	if err := c.Ack(290); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(within); ; time.Sleep(time.Millisecond) {
		if first, _ := q.Bounds(); first > 100 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was removed")
		}
	}
	got, lost := 0, 0
	for got+lost < 300 {
		events, gone, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, lost = got+len(events), lost+gone
	}
	if lost < 100 || got < 10 || got+lost != 300 {
		t.Errorf("%d came and %d were lost", got, lost)
	}
}

func TestLiveFilter(t *testing.T) {
	t.Parallel()
	q := open(t, queue.Options{Dir: t.TempDir()})
	l := liveOf(t, q)
	events := []*event.Event{
		{ID: "stop", HMC: "east", Type: event.TypeStatusChange, Severity: event.SeverityWarning, Summary: "partition PART1 on CPC1: active -> stopped", Resource: &event.Resource{Class: "partition", Name: "PART1", CPC: "CPC1"}},
		{ID: "test", HMC: "west", Type: event.TypeStatusChange, Severity: event.SeverityWarning, Resource: &event.Resource{Class: "partition", Name: "TEST"}},
		{ID: "os", HMC: "east", Type: event.TypeOSMessage, Severity: event.SeverityInfo, Body: []byte(`{"message-text":"Kernel PANIC - not syncing"}`)},
		{ID: "gap", HMC: "west", Type: event.TypeBridgeGap, Severity: event.SeverityInfo, Origin: event.OriginBridge},
	}
	var records []queue.Record
	for i, e := range events {
		records = append(records, queue.Record{Seq: uint64(i + 1), Data: event.AppendRecord(nil, e)})
	}
	records = append(records, queue.Record{Seq: 5, Data: []byte("no record")})
	for name, test := range map[string]struct {
		filter LiveFilter
		want   string
	}{
		"all":                         {LiveFilter{}, "stop test os gap"},
		"a type":                      {LiveFilter{Type: patterns(t, "status-change")}, "stop test"},
		"types":                       {LiveFilter{Type: patterns(t, "os-message", "bridge-.*")}, "os gap"},
		"an HMC":                      {LiveFilter{HMC: patterns(t, "west")}, "test gap"},
		"a severity":                  {LiveFilter{Severity: patterns(t, "warning", "critical")}, "stop test"},
		"a type of an HMC":            {LiveFilter{Type: patterns(t, "status-change"), HMC: patterns(t, "east")}, "stop"},
		"text of the summary":         {LiveFilter{Text: "-> STOPPED"}, "stop"},
		"text of a message":           {LiveFilter{Text: "panic"}, "os"},
		"a name":                      {LiveFilter{Text: "part1"}, "stop"},
		"a CPC":                       {LiveFilter{Text: "cpc1"}, "stop"},
		"a type as text":              {LiveFilter{Text: "bridge"}, "gap"},
		"a sink that gets everything": {LiveFilter{Sink: "all"}, "stop test os gap"},
		"a sink that does not":        {LiveFilter{Sink: "some"}, "stop"},
		"a sink and text":             {LiveFilter{Sink: "some", Text: "test"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := reads(t, l, test.filter)
			got, _, err := r.wanted(records)
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, rec := range got {
				ids = append(ids, rec.ID)
			}
			// The text is lowered where the reader is made, so that each event is compared with it as it is.
			if strings.Join(ids, " ") != test.want {
				t.Errorf("%q, not %q", ids, test.want)
			}
		})
	}
	r, _ := reads(t, l, LiveFilter{})
	if _, err := r.Only(LiveFilter{Sink: "nobody"}); !errors.Is(err, ErrNoSuchSink) {
		t.Errorf("%v", err)
	}
	r, _ = reads(t, l, LiveFilter{Sink: "some"})
	without := load(t, liveHead)
	l.Config = func() *config.Config { return without }
	put(t, q, "one")
	if _, _, err := r.Next(t.Context()); !errors.Is(err, ErrNoSuchSink) {
		t.Errorf("after a reload without it: %v", err)
	}
}

func TestLiveReadersAreBounded(t *testing.T) {
	t.Parallel()
	l := liveOf(t, open(t, queue.Options{Dir: t.TempDir()}))
	var readers []*LiveReader
	for range MaxLiveReaders {
		r, _ := reads(t, l, LiveFilter{})
		readers = append(readers, r)
	}
	if _, err := l.Read(); !errors.Is(err, ErrTooManyReaders) {
		t.Errorf("%v", err)
	}
	readers[3].Close()
	readers[3].Close()
	reads(t, l, LiveFilter{})
}

// At the end each reader gets what is stored, and then is told; one that waits is woken.
func TestLiveEnds(t *testing.T) {
	t.Parallel()
	q := open(t, queue.Options{Dir: t.TempDir()})
	l := liveOf(t, q)
	r, _ := reads(t, l, LiveFilter{})
	waiting, _ := reads(t, l, LiveFilter{Text: "nothing has this"})
	var all sync.WaitGroup
	all.Go(func() {
		if _, _, err := waiting.Next(t.Context()); !errors.Is(err, ErrLiveEnded) {
			t.Errorf("the one that waits: %v", err)
		}
	})
	put(t, q, "one")
	l.End()
	until(t, r, "one")
	if _, _, err := r.Next(t.Context()); !errors.Is(err, ErrLiveEnded) {
		t.Errorf("%v", err)
	}
	all.Wait()
	if _, err := l.Read(); !errors.Is(err, ErrLiveEnded) {
		t.Errorf("after the end: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	alone, _ := reads(t, liveOf(t, q), LiveFilter{})
	if _, _, err := alone.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// The end waits for those who read along, but not for one that does not go on.
func TestLiveLeft(t *testing.T) {
	t.Parallel()
	q := open(t, queue.Options{Dir: t.TempDir()})
	l := liveOf(t, q)
	r, _ := reads(t, l, LiveFilter{})
	stays, _ := reads(t, l, LiveFilter{})
	for i := range 50 {
		put(t, q, fmt.Sprint("one ", i))
	}
	l.End()
	l.Left(time.Millisecond)
	stays.Close()
	var last string
	go func() {
		defer r.Close()
		for {
			events, _, err := r.Next(context.Background())
			if err != nil {
				return
			}
			last = events[len(events)-1].ID
		}
	}()
	l.Left(time.Minute)
	if last != "one 49" {
		t.Errorf("it got the events up to %q", last)
	}
}
