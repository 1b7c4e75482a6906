package deadletters

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// LettersLimit are the options that the tests of dead letters have.
type LettersLimit struct {
	MaxBytes  int64
	OnDropped func(sink string, letters int)
}

// openLetters opens the dead letters of one test, again after they were closed.
type openLetters = func(t testing.TB, limit LettersLimit) Letters

// testLetters checks what is promised of dead letters, wherever they are kept.
func testLetters(t *testing.T, prepare func(t *testing.T) openLetters) {
	for name, test := range map[string]func(t *testing.T, open openLetters){
		"as they are": lettersAsTheyAre, "updated": lettersUpdated, "purged": lettersPurged,
		"limited": lettersLimited, "shared": lettersShared,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, prepare(t))
		})
	}
}

func lettersAsTheyAre(t *testing.T, open openLetters) {
	d := open(t, LettersLimit{})
	start := time.Now().Round(0)
	for i := range 20 {
		l := Letter{
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
	if err := errors.Join(d.Put(), d.Put(Letter{Sink: "sink2"}, Letter{Sink: "sink2"})); err != nil {
		t.Fatal(err)
	}
	check := func() []Letter {
		t.Helper()
		all := list(t, d, Filter{})
		if len(all) != 22 || !slices.IsSortedFunc(all, func(a, b Letter) int { return strings.Compare(a.ID, b.ID) }) {
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
	if err := d.Put(Letter{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Put after Close: %v", err)
	}
	d = open(t, LettersLimit{})
	all := check()

	for _, test := range []struct {
		filter Filter
		want   int
	}{
		{Filter{Sink: "sink1"}, 10},
		{Filter{Limit: 3}, 3},
		{Filter{Since: start.Add(15 * time.Second)}, 5},
		{Filter{Sink: "sink0", Since: start.Add(15 * time.Second), Limit: 9}, 2},
		{Filter{Sink: "nobody"}, 0},
		{Filter{IDs: []string{all[7].ID, "event 9", "x", strings.Repeat("f", 16)}}, 2},
		{Filter{IDs: []string{all[7].ID, "event 9"}, Sink: "sink0"}, 0},
		{Filter{After: all[4].ID, Until: all[9].ID}, 5},
		{Filter{After: all[4].ID, Until: all[9].ID, Limit: 4}, 4},
		{Filter{After: d.Last()}, 0},
		{Filter{After: strings.Repeat("f", 16)}, 0},
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
	for _, filter := range []Filter{{After: "x"}, {Until: "1"}} {
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
	if n, err := Purge(d, Filter{Sink: "sink0"}); n != 9 || err != nil {
		t.Errorf("%d purged, %v", n, err)
	}
	if n, err := Purge(d, Filter{}); n != 11 || err != nil {
		t.Errorf("%d purged, %v", n, err)
	}
	if len(d.Sinks()) != 0 || d.Bytes() != 0 || len(list(t, d, Filter{})) != 0 {
		t.Errorf("left: %q, %d bytes", d.Sinks(), d.Bytes())
	}
	before := all[len(all)-1].ID
	if err := d.Put(Letter{Sink: "s"}); err != nil {
		t.Fatal(err)
	}
	if id := list(t, d, Filter{})[0].ID; id <= before {
		t.Errorf("id %s after %s", id, before)
	}
}

// A letter that is refused once more keeps its place and its record.
func lettersUpdated(t *testing.T, open openLetters) {
	d := open(t, LettersLimit{})
	if err := d.Put(Letter{Sink: "s", Status: 400, Reason: "no", Request: "POST a", EventID: "e", Data: []byte("data")}, Letter{Sink: "s"}); err != nil {
		t.Fatal(err)
	}
	before := list(t, d, Filter{})
	again := Letter{ID: before[0].ID, Sink: "ignored", Time: time.Unix(1800000000, 0), Status: 410, Reason: "gone by now", Request: "POST b", Data: []byte("ignored")}
	if err := d.Update(again); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, err := d.Get(before[0].ID)
		if err != nil || got.Sink != "s" || !got.Time.Equal(again.Time) || got.Status != 410 || got.Reason != "gone by now" ||
			got.Request != "POST b" || got.EventID != "e" || string(got.Data) != "data" {
			t.Fatalf("%+v, %v", got, err)
		}
		if all := list(t, d, Filter{}); len(all) != 2 || all[0].ID != before[0].ID || d.Count("s") != 2 {
			t.Fatalf("%+v", all)
		}
		bytes := d.Bytes()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if d = open(t, LettersLimit{}); d.Bytes() != bytes {
			t.Errorf("%d bytes, %d before", d.Bytes(), bytes)
		}
	}
	if _, err := d.Delete(again.ID); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{again.ID, "x"} {
		if err := d.Update(Letter{ID: id}); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// A purge takes as many transactions as it needs, and leaves what comes meanwhile.
func lettersPurged(t *testing.T, open openLetters) {
	d := open(t, LettersLimit{})
	const n = 2*purgeAtOnce + 1
	letters := make([]Letter, n)
	for i := range letters {
		letters[i].Sink = "s"
	}
	if err := d.Put(letters...); err != nil {
		t.Fatal(err)
	}
	until := d.Last()
	if err := d.Put(Letter{Sink: "later"}); err != nil {
		t.Fatal(err)
	}
	if purged, err := Purge(d, Filter{Until: until}); err != nil || purged != n || d.Count("later") != 1 || d.Count("s") != 0 {
		t.Errorf("%d purged, %v; %d later", purged, err, d.Count("later"))
	}
}

func lettersLimited(t *testing.T, open openLetters) {
	var count atomic.Int64
	d := open(t, LettersLimit{100_000, func(_ string, n int) { count.Add(int64(n)) }})
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for range 100 {
				if err := d.Put(Letter{Sink: fmt.Sprint(i), Data: make([]byte, 1000)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	dropped := int(count.Load())
	left := len(list(t, d, Filter{}))
	if left+dropped != 400 || left < 80 || left > 100 || d.Bytes() > 100_000 {
		t.Errorf("%d left, %d dropped, %d bytes", left, dropped, d.Bytes())
	}
	sum := 0
	for _, sink := range d.Sinks() {
		sum += d.Count(sink)
	}
	if sum != left {
		t.Errorf("%d counted, %d left", sum, left)
	}
}

// A sink that refuses everything drives out its own letters, and not the few of the others; the room is for whoever needs
// it, and each loses its oldest.
func lettersShared(t *testing.T, open openLetters) {
	const limit = 100_000
	dropped := map[string]int{}
	d := open(t, LettersLimit{limit, func(sink string, n int) { dropped[sink] += n }})
	put := func(sink string, n int) {
		t.Helper()
		letters := make([]Letter, n)
		for i := range letters {
			letters[i] = Letter{Sink: sink, Data: make([]byte, 1000)}
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
	if _, err := Purge(d, Filter{Sink: "rare"}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, LettersLimit{limit, func(string, int) {}})
	for range 3 {
		put("new", 50)
	}
	last := map[string]string{}
	for _, sink := range d.Sinks() {
		for _, l := range list(t, d, Filter{Sink: sink}) {
			last[sink] = l.ID
		}
	}
	before := map[string]int{}
	for _, sink := range d.Sinks() {
		before[sink] = d.Count(sink)
	}
	put("all", 20)
	all := list(t, d, Filter{Sink: "all"})
	if len(all) < 20 || all[len(all)-20].ID <= last["all"] {
		t.Error("not the oldest have gone")
	}
	if d.Bytes() > limit || d.Count("few") != 10 {
		t.Errorf("%d bytes, few %d, before %v", d.Bytes(), d.Count("few"), before)
	}
}
