//go:build real

package storm_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// stretch is what a file of the store holds, by the numbers of the records.
type stretch struct {
	path     string
	from, to int
}

// stretches are the segments of a store with n records.
func stretches(t testing.TB, dir string, n int) []stretch {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "segment-*.log"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	var all []stretch
	for _, path := range paths {
		from, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "segment-"), ".log"))
		if err != nil {
			t.Fatal(err)
		}
		if len(all) > 0 {
			all[len(all)-1].to = from - 1
		}
		all = append(all, stretch{path: path, from: from, to: n})
	}
	return all
}

// harm damages a file at a random place and says how.
func harm(r *rand.Rand, path string) (string, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	at := r.Int64N(stat.Size())
	if r.IntN(2) == 0 {
		at = r.Int64N(min(stat.Size(), 64<<10)) // the part that says where the rest is
	}
	name := filepath.Base(path)
	if r.IntN(3) == 0 {
		return fmt.Sprintf("%s cut at %d", name, at), os.Truncate(path, at)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	junk := make([]byte, 1+r.IntN(8192))
	for i := range junk {
		junk[i] = byte(r.Uint32())
	}
	_, err = f.WriteAt(junk, at)
	return fmt.Sprintf("%s: %d bytes from %d", name, len(junk), at), errors.Join(err, f.Close())
}

// TestDamage damages files of the store while the daemon is down, and while it runs. It never ends, it says which files are
// damaged, and everything that was in other files arrives, in order.
func TestDamage(t *testing.T) {
	t.Parallel()
	const n = 200_000
	rounds := soak.Count(t, "DAMAGE", 3, 25)
	seed := uint64(soak.Count(t, "SEED", int(time.Now().UnixNano()>>10&0xffffffff), int(time.Now().UnixNano()>>10&0xffffffff)))
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	pristine := filepath.Join(t.TempDir(), "pristine")
	fillStore(t, pristine, "hook", n)
	letters, err := queue.OpenDeadLetters(queue.DeadLetterOptions{Dir: pristine})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if err := letters.Put(queue.DeadLetter{Sink: "hook", Reason: "a test", Data: fmt.Appendf(nil, "%d%1000d", i, i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := letters.Close(); err != nil {
		t.Fatal(err)
	}
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", Partitions: -1})
	for round := range rounds {
		t.Run(strconv.Itoa(round), func(t *testing.T) { damageRound(t, r, sim, pristine, n) })
	}
}

func damageRound(t *testing.T, r *rand.Rand, sim *hmcsim.HMC, pristine string, n int) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(dir, os.DirFS(pristine)); err != nil {
		t.Fatal(err)
	}
	segments := stretches(t, dir, n)
	if len(segments) < 4 {
		t.Fatalf("%d segments", len(segments))
	}
	// Two segments and one other file while the daemon is down, two more segments while it runs.
	r.Shuffle(len(segments), func(i, j int) { segments[i], segments[j] = segments[j], segments[i] })
	down, running := segments[:2], segments[2:3]
	var said []string
	damage := func(path string) {
		t.Helper()
		what, err := harm(r, path)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		said = append(said, what)
		t.Log(what)
	}
	for _, s := range down {
		damage(s.path)
	}
	other := []string{"cursors", "dead-letters.log"}[r.IntN(2)]
	damage(filepath.Join(dir, other))

	var mu sync.Mutex
	got := make([]bool, n+1)
	last := map[string]int{}
	arrived, fresh := 0, 0
	var consumer *hook
	consumer = newHook(t, func(raw []byte, _ int64) {
		var e delivered
		if err := json.Unmarshal(raw, &e); err != nil {
			consumer.complain("corrupt: %v: %.300q", err, raw)
			return
		}
		value := valueOf(e.Body)
		mu.Lock()
		defer mu.Unlock()
		if strings.HasPrefix(value, "new ") {
			fresh++
			return
		}
		i, err := strconv.Atoi(value)
		if err != nil || i < 0 || i >= n || e.Resource.Name != fmt.Sprintf("R%d", i%500) {
			consumer.complain("corrupt: %.300s", raw)
			return
		}
		if seq := i + 1; !got[seq] {
			got[seq] = true
			arrived++
			if seq < last[e.Resource.Name] {
				consumer.complain("%s: %d after %d", e.Resource.Name, seq, last[e.Resource.Name])
			}
			last[e.Resource.Name] = seq
		}
	})
	consumer.answer(func(*http.Request) int { return http.StatusServiceUnavailable })
	consumer.start(t)
	d := daemon.Start(t, daemon.Options{
		Storage: dir,
		Config: "hmcs:\n" + hmctest.Entry(t, sim, ", topics: [object]") + fmt.Sprintf(
			"sinks:\n- {name: hook, webhook: {url: %q}, drop: [{type: bridge-.*}], batch: {max_events: 500}, retry: {initial: 10ms, max: 100ms}}\n", consumer.url),
	})
	connected(t, d)
	for _, s := range running {
		damage(s.path)
	}
	consumer.answer(nil)
	const news = 100
	for i := range news {
		change(sim, "NEW", "new "+strconv.Itoa(i))
	}
	d.Process.Await(t, within, func() error {
		mu.Lock()
		defer mu.Unlock()
		if fresh < news {
			return fmt.Errorf("%d of %d new events, %d of %d old ones", fresh, news, arrived, n)
		}
		return nil
	})
	d.AwaitMetric(t, within, 0, "hmcnotifyd_sink_queue_events")
	dropped := int(d.Metric(t, "hmcnotifyd_sink_events_total", "outcome", "dropped"))
	damaged := int(d.Metric(t, "hmcnotifyd_storage_segments_damaged_total"))
	d.Stop(t)
	consumer.stop(t)

	lost := 0
	harmed := slices.Concat(down, running)
	for seq := 1; seq <= n; seq++ {
		if got[seq] {
			continue
		}
		lost++
		if !slices.ContainsFunc(harmed, func(s stretch) bool { return s.from <= seq && seq <= s.to }) {
			t.Errorf("record %d is lost, and its segment was not damaged", seq)
			break
		}
	}
	// How far a segment went that nothing is left of says the next one; of the newest one the file of the cursors. Where both are
	// damaged nobody can know how much is lost.
	unknown := other == "cursors" && slices.ContainsFunc(harmed, func(s stretch) bool { return s.to == n })
	if lost > 0 && (damaged == 0 || dropped < lost && !unknown) {
		t.Errorf("%d lost, %d counted as dropped, %d files counted as damaged", lost, dropped, damaged)
	}
	output := d.Process.Output()
	aside, err := filepath.Glob(filepath.Join(dir, "*.damaged*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range aside {
		if !strings.Contains(output, filepath.Base(path)) {
			t.Errorf("%s was set aside, and the log does not say so", path)
		}
	}
	if len(aside) > len(said) {
		t.Errorf("%d files were damaged, %d set aside: %v", len(said), len(aside), aside)
	}
	t.Logf("%d of %d lost, %d counted; %d damaged files counted, %d set aside", lost, n, dropped, damaged, len(aside))
}
