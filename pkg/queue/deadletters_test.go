package queue

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func openDead(t testing.TB, opts DeadLetterOptions) *DeadLetters {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	d, err := OpenDeadLetters(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// size is what the letters count for.
func (d *DeadLetters) size() int64 {
	_, all := d.table.Costs()
	return all
}

func list(t testing.TB, d *DeadLetters, filter DeadLetterFilter) []DeadLetter {
	t.Helper()
	letters, err := d.List(filter)
	if err != nil {
		t.Fatal(err)
	}
	return letters
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	d := openDead(t, DeadLetterOptions{})
	start := time.Now().Round(0)
	for i := range 20 {
		l := DeadLetter{
			Sink: fmt.Sprintf("sink%d", i%2), Time: start.Add(time.Duration(i) * time.Second), Status: 400 + i, Reason: "bad request",
			Request: "POST https://hooks.example.com/", EventID: fmt.Sprintf("event %d", i), EventType: "job-completion", Data: fmt.Appendf(nil, "data %d", i),
		}
		if i == 3 {
			l.Status, l.Data = -1, nil
		}
		if err := d.Put(l); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(d.Put(), d.Put(DeadLetter{Sink: "sink2"}, DeadLetter{Sink: "sink2"})); err != nil {
		t.Fatal(err)
	}
	check := func() []DeadLetter {
		t.Helper()
		all := list(t, d, DeadLetterFilter{})
		if len(all) != 22 || !slices.IsSortedFunc(all, func(a, b DeadLetter) int { return strings.Compare(a.ID, b.ID) }) {
			t.Fatalf("%d letters", len(all))
		}
		if got := d.Sinks(); !slices.Equal(got, []string{"sink0", "sink1", "sink2"}) || d.Count("sink1") != 10 || d.Count("sink2") != 2 || d.Count("x") != 0 {
			t.Errorf("sinks %q, %d of sink1", got, d.Count("sink1"))
		}
		l := all[5]
		if l.Sink != "sink1" || !l.Time.Equal(start.Add(5*time.Second)) || l.Status != 405 || l.Reason != "bad request" ||
			l.Request != "POST https://hooks.example.com/" || l.EventID != "event 5" || l.EventType != "job-completion" || l.Size != 6 || l.Data != nil || len(l.ID) != 16 {
			t.Errorf("letter %+v", l)
		}
		got, err := d.Get(l.ID)
		if err != nil || string(got.Data) != "data 5" || got.Reason != l.Reason || !got.Time.Equal(l.Time) {
			t.Errorf("letter %+v, %v", got, err)
		}
		if got, err := d.Get(all[3].ID); err != nil || got.Data == nil || len(got.Data) != 0 || got.Status != -1 {
			t.Errorf("letter %+v, %v", got, err)
		}
		return all
	}
	check()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Put(DeadLetter{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Put after Close: %v", err)
	}
	d = openDead(t, d.opts)
	all := check()

	for _, test := range []struct {
		filter DeadLetterFilter
		want   int
	}{
		{DeadLetterFilter{Sink: "sink1"}, 10},
		{DeadLetterFilter{Limit: 3}, 3},
		{DeadLetterFilter{Since: start.Add(15 * time.Second)}, 5},
		{DeadLetterFilter{Sink: "sink0", Since: start.Add(15 * time.Second), Limit: 9}, 2},
		{DeadLetterFilter{Sink: "nobody"}, 0},
		{DeadLetterFilter{IDs: []string{all[7].ID, "event 9", "x", strings.Repeat("f", 16)}}, 2},
		{DeadLetterFilter{IDs: []string{all[7].ID, "event 9"}, Sink: "sink0"}, 0},
		{DeadLetterFilter{After: all[4].ID, Until: all[9].ID}, 5},
		{DeadLetterFilter{After: all[4].ID, Until: all[9].ID, Limit: 4}, 4},
		{DeadLetterFilter{After: d.Last()}, 0},
		{DeadLetterFilter{After: strings.Repeat("f", 16)}, 0},
	} {
		got := list(t, d, test.filter)
		if len(got) != test.want {
			t.Errorf("%+v: %d letters, want %d", test.filter, len(got), test.want)
		}
		test.filter.Limit = 0
		counts, err := d.Matching(test.filter)
		sum := 0
		for _, n := range counts {
			sum += n
		}
		if err != nil || sum != len(list(t, d, test.filter)) {
			t.Errorf("%+v: counted %v, %v", test.filter, counts, err)
		}
	}
	for _, filter := range []DeadLetterFilter{{After: "x"}, {Until: "1"}} {
		if _, err := d.List(filter); !errors.Is(err, ErrNotFound) {
			t.Errorf("%+v: %v", filter, err)
		}
	}
	if n, err := d.Delete(all[0].ID, all[1].ID, all[0].ID, "0000000000000000", "x"); n != 2 || err != nil {
		t.Errorf("%d deleted, %v", n, err)
	}
	for _, id := range []string{all[0].ID, "x", "", strings.Repeat("f", 16)} {
		if _, err := d.Get(id); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if n, err := d.Purge(DeadLetterFilter{Sink: "sink0"}); n != 9 || err != nil {
		t.Errorf("%d purged, %v", n, err)
	}
	if n, err := d.Purge(DeadLetterFilter{}); n != 11 || err != nil {
		t.Errorf("%d purged, %v", n, err)
	}
	if len(d.Sinks()) != 0 || d.size() != 0 || len(list(t, d, DeadLetterFilter{})) != 0 {
		t.Errorf("left: %q, %d bytes", d.Sinks(), d.size())
	}
	before := all[len(all)-1].ID
	if err := d.Put(DeadLetter{Sink: "s"}); err != nil {
		t.Fatal(err)
	}
	if id := list(t, d, DeadLetterFilter{})[0].ID; id <= before {
		t.Errorf("id %s after %s", id, before)
	}
}

// A letter that is refused once more keeps its place and its record.
func TestDeadLettersUpdate(t *testing.T) {
	t.Parallel()
	d := openDead(t, DeadLetterOptions{Metrics: NewMetrics(nil)})
	if err := d.Put(DeadLetter{Sink: "s", Status: 400, Reason: "no", Request: "POST a", EventID: "e", Data: []byte("data")}, DeadLetter{Sink: "s"}); err != nil {
		t.Fatal(err)
	}
	before := list(t, d, DeadLetterFilter{})
	again := DeadLetter{ID: before[0].ID, Sink: "ignored", Time: time.Unix(1800000000, 0), Status: 410, Reason: "gone by now", Request: "POST b", Data: []byte("ignored")}
	if err := d.Update(again); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, err := d.Get(before[0].ID)
		if err != nil || got.Sink != "s" || !got.Time.Equal(again.Time) || got.Status != 410 || got.Reason != "gone by now" ||
			got.Request != "POST b" || got.EventID != "e" || string(got.Data) != "data" {
			t.Fatalf("%+v, %v", got, err)
		}
		if all := list(t, d, DeadLetterFilter{}); len(all) != 2 || all[0].ID != before[0].ID || d.Count("s") != 2 {
			t.Fatalf("%+v", all)
		}
		cost := d.size()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if d = openDead(t, d.opts); d.size() != cost || testutil.ToFloat64(d.opts.Metrics.deadBytes) != float64(cost) {
			t.Errorf("%d bytes, %d before", d.size(), cost)
		}
	}
	if _, err := d.Delete(again.ID); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{again.ID, "x"} {
		if err := d.Update(DeadLetter{ID: id}); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// Damage to a key must not make one letter of another.
func TestDeadLetterKey(t *testing.T) {
	t.Parallel()
	l := DeadLetter{Sink: "s", Status: 400, Reason: "no", Request: "status-change 9f0c", Size: 3}
	key, other := sequenceKey(5), sequenceKey(6)
	b := encodeLetter(key, &l)
	if got, err := decodeLetter(key, b); err != nil || got.Sink != "s" || got.Request != "status-change 9f0c" || got.Size != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := decodeLetter(other, b); !errors.Is(err, errLetter) {
		t.Errorf("under another key: %v", err)
	}
	b, _ = cutCRC(b, key...)
	b[0]++
	if _, err := decodeLetter(key, appendCRC(b, key...)); !errors.Is(err, errLetter) {
		t.Errorf("a layout nobody knows: %v", err)
	}
}

// What has the right sum, and is no letter all the same, is refused; what is read is written as it
// was.
func FuzzDecodeLetter(f *testing.F) {
	l := DeadLetter{Sink: "s", Status: 400, Reason: "no", Request: "status-change 9f0c", Size: 3}
	b, _ := cutCRC(encodeLetter(sequenceKey(5), &l), sequenceKey(5)...)
	f.Add(sequenceKey(5), b)
	f.Add(sequenceKey(5), []byte{})
	f.Add([]byte{}, []byte{letterVersion})
	f.Fuzz(func(t *testing.T, key, b []byte) {
		got, err := decodeLetter(key, appendCRC(slices.Clone(b), key...))
		if err != nil {
			if !errors.Is(err, errLetter) {
				t.Error(err)
			}
			return
		}
		got.Status = min(got.Status, 1<<30) // as far as it is written
		if again, err := decodeLetter(key, encodeLetter(key, &got)); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%+v, %v; first %+v", again, err, got)
		}
		if _, err := decodeLetter(key, b); len(b) > 0 && err == nil {
			t.Error("without its sum it is read as well")
		}
	})
}

// A purge takes as many transactions as it needs, and leaves what comes meanwhile.
func TestDeadLettersPurgeMany(t *testing.T) {
	t.Parallel()
	d := openDead(t, DeadLetterOptions{Dir: memoryDir(t)})
	const n = 2*purgeAtOnce + 1
	letters := make([]DeadLetter, n)
	for i := range letters {
		letters[i].Sink = "s"
	}
	if err := d.Put(letters...); err != nil {
		t.Fatal(err)
	}
	until := d.Last()
	if err := d.Put(DeadLetter{Sink: "later"}); err != nil {
		t.Fatal(err)
	}
	if purged, err := d.Purge(DeadLetterFilter{Until: until}); err != nil || purged != n || d.Count("later") != 1 || d.Count("s") != 0 {
		t.Errorf("%d purged, %v; %d later", purged, err, d.Count("later"))
	}
}

func TestDeadLettersLimit(t *testing.T) {
	t.Parallel()
	var count atomic.Int64
	d := openDead(t, DeadLetterOptions{
		Dir: memoryDir(t), MaxBytes: 100_000, Metrics: NewMetrics(nil), OnDropped: func(_ string, n int) { count.Add(int64(n)) },
	})
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for range 100 {
				if err := d.Put(DeadLetter{Sink: fmt.Sprint(i), Data: make([]byte, 1000)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	dropped := int(count.Load())
	left := len(list(t, d, DeadLetterFilter{}))
	if left+dropped != 400 || left < 80 || left > 100 || d.size() > 100_000 {
		t.Errorf("%d left, %d dropped, %d bytes", left, dropped, d.size())
	}
	sum := 0
	for _, sink := range d.Sinks() {
		sum += d.Count(sink)
	}
	if sum != left || testutil.ToFloat64(d.opts.Metrics.deadDropped) != float64(dropped) || testutil.ToFloat64(d.opts.Metrics.deadBytes) != float64(d.size()) {
		t.Errorf("%d counted, %d left", sum, left)
	}
	stat, err := os.Stat(d.path)
	if err != nil || stat.Size() > 8<<20 {
		t.Errorf("%v, %v", stat, err)
	}
}

// A sink that refuses everything drives out its own letters, and not the few of the others; the room is for whoever needs
// it, and each loses its oldest.
func TestDeadLettersAreSharedFairly(t *testing.T) {
	t.Parallel()
	const limit = 100_000
	dropped := map[string]int{}
	d := openDead(t, DeadLetterOptions{Dir: memoryDir(t), MaxBytes: limit, OnDropped: func(sink string, n int) { dropped[sink] += n }})
	put := func(sink string, n int) {
		t.Helper()
		letters := make([]DeadLetter, n)
		for i := range letters {
			letters[i] = DeadLetter{Sink: sink, Data: make([]byte, 1000)}
		}
		if err := d.Put(letters...); err != nil {
			t.Fatal(err)
		}
	}
	put("few", 10)
	for range 30 {
		put("all", 7)
		put("rare", 1)
	}
	if got := dropped["few"] + dropped["rare"]; got != 0 || d.Count("few") != 10 || d.Count("rare") != 30 {
		t.Errorf("dropped %v; left: few %d, rare %d, all %d", dropped, d.Count("few"), d.Count("rare"), d.Count("all"))
	}
	if d.Count("all") < 45 {
		t.Errorf("%d of the sink that refuses all: the room is not used", d.Count("all"))
	}
	// Those who want more than there is have the same.
	put("more", 200)
	for _, sink := range []string{"more", "rare"} {
		if diff := d.Count("all") - d.Count(sink); diff < -1 || diff > 1 || d.Count("few") != 10 {
			t.Errorf("all %d, %s %d, few %d", d.Count("all"), sink, d.Count(sink), d.Count("few"))
		}
	}
	// Of each the newest are left, also after a restart, and after letters have gone in between.
	if _, err := d.Purge(DeadLetterFilter{Sink: "rare"}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openDead(t, DeadLetterOptions{Dir: d.opts.Dir, MaxBytes: limit})
	for range 3 {
		put("new", 50)
	}
	last := map[string]string{}
	for _, sink := range d.Sinks() {
		for _, l := range list(t, d, DeadLetterFilter{Sink: sink}) {
			last[sink] = l.ID
		}
	}
	before := map[string]int{}
	for _, sink := range d.Sinks() {
		before[sink] = d.Count(sink)
	}
	put("all", 20)
	all := list(t, d, DeadLetterFilter{Sink: "all"})
	if len(all) < 20 || all[len(all)-20].ID <= last["all"] {
		t.Error("not the oldest have gone")
	}
	if d.size() > limit || d.Count("few") != 10 {
		t.Errorf("%d bytes, few %d, before %v", d.size(), d.Count("few"), before)
	}
	var sum int64
	sizes, _ := d.table.Costs()
	for _, size := range sizes {
		sum += size
	}
	if sum != d.size() {
		t.Errorf("%d bytes of the sinks, %d of all", sum, d.size())
	}
}

// A letter keeps what it is about; one that a version without that has written is read all the same.
func TestDeadLettersSummary(t *testing.T) {
	t.Parallel()
	key := sequenceKey(7)
	l := DeadLetter{ID: letterID(7), Sink: "s", Time: time.Unix(0, 1), Reason: "no", EventID: "e", EventType: "os-message", Summary: "PART1: IXC101I", Size: 3}
	b := encodeLetter(key, &l)
	if got, err := decodeLetter(key, b); err != nil || !reflect.DeepEqual(got, l) {
		t.Errorf("%+v, %v", got, err)
	}
	content, _ := cutCRC(b, key...)
	old := slices.Clone(content[:len(content)-len(appendSized(nil, l.Summary))])
	old[0] = letterWithoutSummary
	want := l
	want.Summary = ""
	if got, err := decodeLetter(key, appendCRC(old, key...)); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("of an earlier version: %+v, %v", got, err)
	}
}

func TestDeadLettersDamage(t *testing.T) {
	t.Parallel()
	make100 := func(t *testing.T) *DeadLetters {
		t.Helper()
		d := openDead(t, DeadLetterOptions{Dir: memoryDir(t), Metrics: NewMetrics(nil)})
		for i := range 100 {
			if err := d.Put(DeadLetter{Sink: "s", Reason: fmt.Sprintf("reason %d", i), Data: fmt.Appendf(nil, "data of %d%s", i, make([]byte, 500))}); err != nil {
				t.Fatal(err)
			}
		}
		return d
	}
	change := func(t *testing.T, path, from, to string) {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.ReplaceAll(string(b), from, to)
		if changed == string(b) {
			t.Fatal("nothing to change")
		}
		if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a letter", func(t *testing.T) {
		t.Parallel()
		d := make100(t)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		change(t, d.path, "reason 42", "reason 43")
		change(t, d.path, "data of 57", "data of 58")
		d = openDead(t, d.opts)
		all := list(t, d, DeadLetterFilter{})
		if len(all) != 99 {
			t.Fatalf("%d letters", len(all))
		}
		i := slices.IndexFunc(all, func(l DeadLetter) bool { return l.Reason == "reason 57" })
		if l, err := d.Get(all[i].ID); err == nil {
			t.Errorf("got %q", l.Data)
		}
		if n, err := d.Delete(all[i].ID); n != 1 || err != nil {
			t.Errorf("%d deleted, %v", n, err)
		}
		if len(damagedFiles(t, d.opts.Dir)) != 0 || testutil.ToFloat64(d.opts.Metrics.damaged) != 1 {
			t.Error("the file was set aside or nothing counted")
		}
	})
	t.Run("the file", func(t *testing.T) {
		t.Parallel()
		d := make100(t)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d.path, []byte("nothing of it is left"), 0o600); err != nil {
			t.Fatal(err)
		}
		d = openDead(t, d.opts)
		if err := d.Put(DeadLetter{Sink: "s"}); err != nil {
			t.Fatal(err)
		}
		if len(list(t, d, DeadLetterFilter{})) != 1 || len(damagedFiles(t, d.opts.Dir)) != 1 {
			t.Error("no new file")
		}
	})
	// What is cut off is lost, and what is in front of it is not.
	t.Run("its end", func(t *testing.T) {
		t.Parallel()
		d := make100(t)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(d.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(d.path, int64(bytes.Index(b, []byte("reason 98")))); err != nil {
			t.Fatal(err)
		}
		for start, want := range []float64{1, 0} {
			d.opts.Metrics = NewMetrics(nil)
			d = openDead(t, d.opts)
			if got := testutil.ToFloat64(d.opts.Metrics.damaged); got != want {
				t.Errorf("start %d: %v counted", start+1, got)
			}
			if err := d.Put(DeadLetter{Sink: "s"}); err != nil {
				t.Fatal(err)
			}
			if got := list(t, d, DeadLetterFilter{}); len(got) != 99+start || got[97].Reason != "reason 97" {
				t.Errorf("start %d: %d letters", start+1, len(got))
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("the file, while open", func(t *testing.T) {
		t.Parallel()
		for _, change := range []func(path string) error{os.Remove, func(path string) error { return os.Truncate(path, 4096) }} {
			d := make100(t)
			if err := change(d.path); err != nil {
				t.Fatal(err)
			}
			left := len(list(t, d, DeadLetterFilter{}))
			if err := d.Put(DeadLetter{Sink: "s"}); err != nil {
				t.Fatal(err)
			}
			if got := len(list(t, d, DeadLetterFilter{})); left > 10 || got != left+1 || testutil.ToFloat64(d.opts.Metrics.damaged) == 0 {
				t.Errorf("%d letters, then %d", left, got)
			}
		}
	})
	if _, err := OpenDeadLetters(DeadLetterOptions{}); err == nil {
		t.Error("opened nowhere")
	}
	if _, err := OpenDeadLetters(DeadLetterOptions{Dir: filepath.Join(t.TempDir(), "x", "y")}); err == nil {
		t.Error("opened in a directory that does not exist")
	}
}

func TestMetricsLint(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	NewMetrics(reg)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}
