//go:build real

package storm_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
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
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

const (
	killRate      = 2000 // notifications per second: a half of objects, a half of operating systems
	killResources = 24
	killHeld      = 2000 // OS messages of a partition that the HMC holds
)

func listen(t testing.TB, addr string) (net.Listener, error) {
	t.Helper()
	return new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
}

// stormLoad publishes, and remembers what it has published.
type stormLoad struct {
	sim        *hmcsim.HMC
	partitions []hmcsim.PartitionInfo

	mu    sync.Mutex
	next  int     // number of the next property change
	lives [][]int // numbers of those that went to a subscription, in their order, by the life of the daemon
	texts []int   // OS messages so far, by partition

	arrived func(partition string) int // how many of a partition's OS messages
}

func (l *stormLoad) publish(i int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i%2 == 0 {
		p := i / 2 % len(l.partitions)
		if l.texts[p]-l.arrived(l.partitions[p].Name) > killHeld/2 {
			return // on a slow machine the HMC would forget some before they are fetched
		}
		l.texts[p]++
		if _, err := l.sim.OSMessages(l.partitions[p].ID, fmt.Sprintf("storm %d", l.texts[p])); err != nil {
			panic(err) // the partition was there a moment ago
		}
		return
	}
	l.next++
	class := "user"
	if asked(l.next) {
		class = "partition"
	}
	if changeOf(l.sim, class, fmt.Sprintf("R%d", l.next%killResources), strconv.Itoa(l.next)) > 0 {
		life := len(l.lives) - 1
		l.lives[life] = append(l.lives[life], l.next)
	}
}

// asked says whether the HMC is asked where the resource of a change belongs, once it has listed all that it lists. What
// waits for an answer is not stored, and a kill loses it.
func asked(n int) bool { return n%killResources < killResources/4 }

func (l *stormLoad) newLife() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lives = append(l.lives, nil)
}

// witness keeps what a sink got, and says what is wrong with it.
type witness struct {
	name     string
	ids      map[string]string         // what each id is of
	changes  map[int]string            // id of each property change
	messages map[string]map[int]string // id of each OS message, by partition
	last     map[string]int            // newest property change, by resource
	repeated int
	problems []string
}

func newWitness(name string) *witness {
	return &witness{
		name: name, ids: make(map[string]string), changes: make(map[int]string), messages: make(map[string]map[int]string), last: make(map[string]int),
	}
}

func (w *witness) problem(format string, args ...any) {
	if len(w.problems) < 20 {
		w.problems = append(w.problems, w.name+": "+fmt.Sprintf(format, args...))
	}
}

func (w *witness) take(raw []byte) {
	var e delivered
	if err := json.Unmarshal(raw, &e); err != nil || e.ID == "" {
		w.problem("corrupt (%v): %.300q", err, raw)
		return
	}
	what, known := "", ""
	switch e.Type {
	case "property-change":
		n, err := strconv.Atoi(valueOf(e.Body))
		if err != nil || e.Resource.Name != fmt.Sprintf("R%d", n%killResources) {
			w.problem("corrupt: %s", raw)
			return
		}
		what = "change " + strconv.Itoa(n)
		if known = w.changes[n]; known == "" {
			if n < w.last[e.Resource.Name] {
				w.problem("%s: %d comes after %d", e.Resource.Name, n, w.last[e.Resource.Name])
			}
			w.last[e.Resource.Name] = n
		}
		w.changes[n] = e.ID
	case "os-message":
		var body struct {
			Number int    `json:"sequence-number"`
			Text   string `json:"message-text"`
		}
		n, from := 0, e.Resource.Name
		if err := json.Unmarshal(e.Body, &body); err != nil {
			w.problem("corrupt: %s", raw)
			return
		}
		if _, err := fmt.Sscanf(body.Text, "storm %d", &n); err != nil {
			n, from = body.Number, from+" at its start"
		}
		what = fmt.Sprintf("message %d of %s", n, from)
		of := w.messages[from]
		if of == nil {
			of = make(map[int]string)
			w.messages[from] = of
		}
		known = of[n]
		of[n] = e.ID
	default:
		if !strings.HasPrefix(e.Type, "bridge-") {
			w.problem("an event of nobody: %s", raw)
		}
		what, known = string(raw), w.ids[e.ID]
		if known != "" {
			known = e.ID
		}
	}
	if known != "" {
		w.repeated++
		if known != e.ID {
			w.problem("%s has the ids %s and %s", what, known, e.ID)
		}
	}
	if other, ok := w.ids[e.ID]; ok && other != what {
		w.problem("%s is the id of %s and of %s", e.ID, other, what)
	}
	w.ids[e.ID] = what
}

// compare says what of the load is missing. counted are the property changes in events_total of each life, total is the
// number of all events that were counted.
func (w *witness) compare(t *testing.T, l *stormLoad, counted []int, total int) {
	t.Helper()
	lost, unconfirmed := 0, 0
	for life, published := range l.lives {
		got := 0
		for _, n := range published {
			if w.changes[n] != "" {
				got++
			}
		}
		// What was stored is what came, from the first on: of each resource that is asked about, and of all others together.
		after := make(map[int]int) // the first one that is missing
		for _, n := range published {
			of := 0
			if asked(n) {
				of = 1 + n%killResources
			}
			if w.changes[n] == "" {
				after[of] = cmp.Or(after[of], n)
			} else if after[of] > 0 {
				w.problem("life %d: %d arrived of %d, %d was stored and %d before it was not", life, got, len(published), n, after[of])
				break
			}
		}
		if got < counted[life] {
			lost += counted[life] - got
		}
		unconfirmed += len(published) - got
	}
	if lost > 0 {
		w.problem("%d property changes that were counted in events_total are lost", lost)
	}
	if len(w.ids) < total {
		w.problem("%d events arrived, %d were counted", len(w.ids), total)
	}
	for i, p := range l.partitions {
		missing := 0
		for n := 1; n <= l.texts[i]; n++ {
			if w.messages[p.Name][n] == "" {
				missing++
			}
		}
		if missing > 0 || len(w.messages[p.Name]) != l.texts[i] {
			w.problem("%s: %d of %d OS messages are missing, which the HMC held all the time", p.Name, missing, l.texts[i])
		}
	}
	for _, p := range w.problems {
		t.Error(p)
	}
	t.Logf("%s: %d events, %d of them again; %d property changes that no scrape had counted were not stored", w.name, len(w.ids), w.repeated, unconfirmed)
}

// scraper reads events_total again and again.
type scraper struct {
	url    string
	client *http.Client

	mu             sync.Mutex
	changes, total int // as of the last answer
	answers        int
}

// run scrapes until ctx is done.
func (s *scraper) run(ctx context.Context) {
	for ctx.Err() == nil {
		s.once(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (s *scraper) once(ctx context.Context) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, http.NoBody)
	if err != nil {
		return
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return // it is not there yet, or not any more
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return
	}
	changes, total := 0, 0
	for line := range bytes.Lines(body) {
		series, ok := bytes.CutPrefix(line, []byte("hmcnotifyd_events_total{"))
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(string(bytes.TrimSpace(series[bytes.LastIndexByte(series, ' '):])), 64)
		if err != nil {
			return
		}
		total += int(n)
		if bytes.Contains(series, []byte(`type="property-change"`)) {
			changes += int(n)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes, s.total = changes, total
	s.answers++
}

// counted says whether an answer has counted an event.
func (s *scraper) counted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total > 0
}

// TestKill kills the daemon with SIGKILL at random moments while notifications come in, and starts it again. What it had
// counted in events_total arrives at every sink, whole, and the same thing always has the same id; of the property
// changes the daemon stores what came from the first on, and the OS messages arrive all: the HMC holds those that came
// while nobody was there. No session is left on the HMC.
func TestKill(t *testing.T) {
	t.Parallel()
	kills := soak.Count(t, "KILLS", 25, 200)
	seed := uint64(soak.Count(t, "SEED", int(time.Now().UnixNano()>>10&0xffffffff), int(time.Now().UnixNano()>>10&0xffffffff)))
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", Partitions: 4, OSMessages: killHeld})
	load := &stormLoad{sim: sim, partitions: sim.Partitions(), lives: make([][]int, 1)}
	load.texts = make([]int, len(load.partitions))
	for _, p := range load.partitions {
		status := "operating"
		if p.DPM {
			status = "active"
		}
		if err := sim.SetPartitionStatus(p.ID, status); err != nil {
			t.Fatal(err)
		}
	}

	dir, data := t.TempDir(), filepath.Join(t.TempDir(), "data")
	hooked := newWitness("webhook")
	consumer := newHook(t, func(raw []byte, _ int64) { hooked.take(raw) })
	load.arrived = func(partition string) int {
		consumer.mu.Lock()
		defer consumer.mu.Unlock()
		return len(hooked.messages[partition])
	}
	consumer.start(t)
	config := "hmcs:\n" + hmctest.Entry(t, sim, ", topics: [object], os_messages: [{cpc: .*, partition: .*, include_refresh_messages: true}]") + fmt.Sprintf(`sinks:
- {name: hook, webhook: {url: %q}, batch: {max_events: 100}, retry: {initial: 10ms, max: 100ms}}
- {name: file, log: {output: events.log}}
`, consumer.url)
	if err := os.WriteFile(filepath.Join(dir, "hmcnotifyd.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	binary, addr := daemon.Binary(t), fmt.Sprintf("127.0.0.1:%d", program.FreePort(t))
	start := func() *program.Process {
		return program.Start(t, program.Options{Name: "hmcnotifyd", Path: binary, Dir: dir, Args: []string{
			"--config.file=hmcnotifyd.yaml", "--storage.path=" + data, "--web.listen-address=" + addr,
		}})
	}
	stop := make(chan struct{})
	var loading sync.WaitGroup
	loading.Go(func() { pace(killRate, 1<<40, stop, load.publish) })
	t.Cleanup(loading.Wait)
	stopLoad := sync.OnceFunc(func() { close(stop) })
	t.Cleanup(stopLoad)

	// life runs the daemon, and returns what it had counted at the last scrape before its end.
	life := func(do func(*program.Process, *scraper)) (changes, total, answers int) {
		s := &scraper{url: "http://" + addr + "/metrics", client: &http.Client{Transport: &http.Transport{}}}
		ctx, cancel := context.WithCancel(t.Context())
		var scraping sync.WaitGroup
		p := start()
		scraping.Go(func() { s.run(ctx) })
		do(p, s)
		cancel()
		scraping.Wait()
		s.client.CloseIdleConnections()
		return s.changes, s.total, s.answers
	}
	var counted []int
	total, scraped, early := 0, 0, 0
	for round := range kills {
		changes, all, answers := life(func(p *program.Process, s *scraper) {
			if round%5 == 4 { // while it starts, too
				time.Sleep(time.Duration(random.Int64N(int64(300 * time.Millisecond))))
				early++
			} else {
				p.Await(t, within, func() error {
					if sim.Links() == 0 {
						return fmt.Errorf("no link")
					}
					return nil
				})
				if round%5 != 3 { // at once, too
					p.Await(t, within, func() error {
						if !s.counted() {
							return fmt.Errorf("no event was counted")
						}
						return nil
					})
				}
				time.Sleep(time.Duration(random.Int64N(int64(600 * time.Millisecond))))
			}
			select {
			case <-p.Exited():
				t.Fatalf("the daemon has ended by itself in round %d", round)
			default:
			}
			p.Kill()
		})
		counted = append(counted, changes)
		total += all
		if answers > 0 && all > 0 {
			scraped++
		}
		program.Await(t, within, func() error { // what is published from now on goes to the next life
			if n := sim.Broker().DropLinks(); n != 0 {
				return fmt.Errorf("%d links of a daemon that is dead", n)
			}
			return nil
		})
		load.newLife()
	}
	// What is noted nowhere was killed between the HMC's answer to the logon and the note, which nobody can know of.
	unknown := 0
	for _, s := range sim.SessionInfos() {
		if !noted(t, data, s.SessionID) {
			unknown++
		}
	}
	changes, all, _ := life(func(p *program.Process, _ *scraper) {
		p.Await(t, within, func() error {
			if sim.Links() == 0 {
				return fmt.Errorf("no link")
			}
			return nil
		})
		time.Sleep(300 * time.Millisecond)
		stopLoad()
		loading.Wait()
		p.Await(t, within, func() error { return quiet(addr, hooked, consumer, load) })
		if status := p.Terminate(t, daemon.StopTimeout); status != 0 {
			t.Errorf("exit status %d after SIGTERM", status)
		}
	})
	if n := sim.Sessions(); n != unknown || unknown > early {
		t.Errorf("%d sessions are left on the HMC, of which %d were not known, after %d kills during a start", n, unknown, early)
	}
	counted, total = append(counted, changes), total+all
	published := 0
	for _, l := range load.lives {
		published += len(l)
	}
	t.Logf("%d kills, %d of them during a start, %d after a scrape that had counted something; %d property changes went to the daemon, %d were counted, %d events in all",
		kills, early, scraped, published, sum(counted), total)

	if scraped < kills/2 || total == 0 {
		t.Errorf("only %d kills came after something was counted", scraped)
	}
	filed := newWitness("log file")
	file, err := os.ReadFile(filepath.Join(dir, "events.log"))
	if err != nil {
		t.Fatal(err)
	}
	torn := takeLines(filed, file)
	t.Logf("log file: %d lines were cut off by a kill, and written again", torn)
	consumer.stop(t)
	hooked.compare(t, load, counted, total)
	filed.compare(t, load, counted, total)
	damaged, err := filepath.Glob(filepath.Join(data, "*.damaged*"))
	if err != nil || len(damaged) > 0 {
		t.Errorf("set aside: %v (%v)", damaged, err)
	}
}

// noted says whether a daemon has noted a session in its storage directory, to log it off.
func noted(t *testing.T, data, session string) bool {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(data, "sessions", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(names, func(name string) bool {
		text, err := os.ReadFile(name)
		return err == nil && bytes.Contains(text, []byte(session))
	})
}

// takeLines hands the lines of a log file to a witness, and returns how many were cut off by a kill in the middle of a
// write: each of them has to be there again, whole.
func takeLines(w *witness, file []byte) (torn int) {
	var cut [][]byte
	whole := map[string]bool{}
	for line := range bytes.Lines(file) {
		text, ended := bytes.CutSuffix(line, []byte("\n"))
		if !ended || !json.Valid(text) {
			cut = append(cut, text)
			continue
		}
		if len(cut) > torn { // what is written after a torn line is what was torn
			for _, c := range cut[torn:] {
				if bytes.HasPrefix(text, c) {
					whole[string(c)] = true
				}
			}
		}
		w.take(text)
	}
	for _, c := range cut {
		if !whole[string(c)] {
			w.problem("a line is cut off and does not come again: %.300q", c)
		}
		torn++
	}
	return torn
}

// quiet says what is still to come.
func quiet(addr string, w *witness, consumer *hook, l *stormLoad) error {
	resp, err := http.Get("http://" + addr + "/metrics") //nolint:noctx // it answers or the daemon is dead
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	http.DefaultClient.CloseIdleConnections()
	if n, err := daemon.Metric(string(body), "hmcnotifyd_sink_queue_events"); err != nil || n != 0 {
		return fmt.Errorf("%v events wait (%w)", n, err)
	}
	consumer.mu.Lock()
	defer consumer.mu.Unlock()
	for i, p := range l.partitions {
		if got := len(w.messages[p.Name]); got < l.texts[i] {
			return fmt.Errorf("%s: %d of %d OS messages", p.Name, got, l.texts[i])
		}
	}
	last := slices.Max(append(l.lives[len(l.lives)-1], 0))
	if last > 0 && w.changes[last] == "" {
		return fmt.Errorf("the last property change has not arrived")
	}
	return nil
}

func sum(values []int) (s int) {
	for _, v := range values {
		s += v
	}
	return s
}
