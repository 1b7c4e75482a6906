package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	started "github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// gapSlack is how far the times of the test and those of a gap may be apart: what publishing takes.
const gapSlack = 100 * time.Millisecond

// published is what was published so far: property changes with the numbers from 0 on.
type published struct {
	mu   sync.Mutex
	at   []time.Duration // since start; when
	sent []bool          // to a subscription
	life []int           // numbers at which lives of the daemon begin
}

// arrivals are what a consumer got. What it got once more has to be the same.
type arrivals struct {
	mu        sync.Mutex
	seed      maphash.Seed
	ids       []uint64    // hash of the id of each property change; 0: it has not come
	received  []time.Time // by the daemon
	again     int
	connected map[string]bool // ids of bridge-connected events
	gaps      map[string]arrivedGap
	problems  []string
}

type arrivedGap struct {
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Causes  []string  `json:"causes"`
	Missing []string  `json:"may_be_missing"`
}

func (a *arrivals) problem(format string, args ...any) {
	if len(a.problems) < 20 {
		a.problems = append(a.problems, fmt.Sprintf(format, args...))
	}
}

func (a *arrivals) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the daemon was killed
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for raw := range event.Elements(body) {
		a.take(raw)
	}
}

func (a *arrivals) take(raw []byte) {
	id, body := event.String(event.Member(raw, "id")), event.Member(raw, "body")
	switch event.String(event.Member(raw, "type")) {
	case event.TypePropertyChange:
		number, err := -1, error(nil)
		for report := range event.Elements(event.Member(body, "change-reports")) {
			number, _ = strconv.Atoi(event.String(event.Member(report, "new-value")))
		}
		for number >= len(a.ids) {
			a.ids, a.received = append(a.ids, 0), append(a.received, time.Time{})
		}
		hash := maphash.String(a.seed, id) | 1
		if number < 0 || id == "" {
			a.problem("not an event of this test: %s", raw)
		} else if known := a.ids[number]; known != 0 && known != hash {
			a.problem("change %d has two ids", number)
		} else if known != 0 {
			a.again++
		} else {
			a.ids[number] = hash
			if a.received[number], err = time.Parse(time.RFC3339Nano, event.String(event.Member(raw, "received"))); err != nil {
				a.problem("%v: %s", err, raw)
			}
		}
	case event.TypeBridgeConnected:
		a.connected[id] = true
	case event.TypeBridgeGap:
		var g arrivedGap
		if err := json.Unmarshal(body, &g); err != nil {
			a.problem("%v: %s", err, raw)
		}
		if other, known := a.gaps[id]; known && !other.From.Equal(g.From) {
			a.problem("two gaps with one id: %s", raw)
		}
		a.gaps[id] = g
	}
}

// TestEachKillIsOneGap kills the daemon again and again, most times before it has told of the time before, while
// notifications come. What it has counted arrives. Each time in which it was not in sight of the HMC is one gap, with its own
// ends and cause, and everything that has not arrived was published within one. No session of those that were killed stays
// on the HMC.
func TestEachKillIsOneGap(t *testing.T) {
	t.Parallel()
	kills := soak.Count(t, "GAPS", 6, 1000)
	seed := uint64(soak.Count(t, "SEED", int(time.Now().UnixNano()>>10&0xffffffff), int(time.Now().UnixNano()>>10&0xffffffff)))
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	sim := startEast(t)
	got := &arrivals{seed: maphash.MakeSeed(), connected: make(map[string]bool), gaps: make(map[string]arrivedGap)}
	consumer := httptest.NewServer(got)
	defer consumer.Close()

	dir, addr := t.TempDir(), freeAddress(t)
	config := filepath.Join(dir, "hmcnotifyd.yaml")
	write(t, config, fmt.Sprintf(`hmcs:
- name: east
  hosts: [%q]
  rest_port: %d
  stomp_port: %d
  userid: %s
  password: %s
  tls: {insecure_skip_verify: true}
  topics: [object, audit]
  os_messages: [{cpc: .*, partition: .*}]
  rest_requests_per_minute: 10000
  stomp: {reconnect_sleep_initial: 20ms, reconnect_sleep_max: 200ms}
sinks:
- {name: hook, webhook: {url: %q}, batch: {max_events: 500}, match: [{type: [property-change, bridge-connected, bridge-gap]}], retry: {initial: 10ms, max: 100ms}}
`, sim.Host(), sim.RESTPort(), sim.StompPort(), hmcsim.DefaultUserid, hmcsim.DefaultPassword, consumer.URL))

	began := time.Now()
	p := &published{life: []int{0}}
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	rate := float64(soak.Count(t, "GAPS_RATE", 500, 2000)) // notifications in a second
	every := time.Duration(soak.Count(t, "GAPS_EVERY_MS", 20, 2)) * time.Millisecond
	publishing.Go(func() { p.run(sim, rate, every, began, stop) })
	stopPublishing := sync.OnceFunc(func() { close(stop); publishing.Wait() })
	defer stopPublishing()

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	counted := func(known int) int { // property changes in events_total
		status, text := get(t, client, http.MethodGet, "http://"+addr+"/metrics")
		if status != http.StatusOK {
			return known
		}
		return max(known, sumOf(text, "hmcnotifyd_events_total", `type="property-change"`))
	}
	start := func() *program {
		return start(t, nil, "--config.file="+config, "--storage.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
	}
	noted := make(map[string]bool) // sessions of daemons that were killed
	note := func() {
		files, err := filepath.Glob(filepath.Join(dir, "data", "sessions", "east~*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			var session struct {
				ID string `json:"id"`
			}
			if data, err := os.ReadFile(file); err == nil && json.Unmarshal(data, &session) == nil {
				noted[session.ID] = true
			}
		}
	}
	counts, total := make([]int, 0, kills+1), 0
	for kill := range kills {
		if kill > 0 && kill%100 == 0 {
			t.Logf("%d kills after %s", kill, time.Since(began).Round(time.Second))
		}
		d, n := start(), 0
		if kill%3 == 0 { // The others may end before, above all on a busy machine.
			eventually(t, "connected", func() bool { n = counted(n); return n > 0 })
		}
		for end := time.Now().Add(200*time.Millisecond + time.Duration(random.Int64N(int64(2800*time.Millisecond)))); time.Now().Before(end); {
			n = counted(n)
			time.Sleep(min(50*time.Millisecond, time.Until(end)))
		}
		select {
		case <-d.exited:
			t.Fatalf("the daemon has ended by itself:\n%s", d.out)
		default:
		}
		if err := d.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-d.exited
		eventually(t, "its link is gone", func() bool { return sim.Links() == 0 })
		note()
		counts = append(counts, n)
		total += n
		p.newLife()
	}
	d, n := start(), 0
	eventually(t, "connected", func() bool { n = counted(n); return n > 0 })
	stopPublishing()
	connected := func() int {
		got.mu.Lock()
		defer got.mu.Unlock()
		return len(got.connected)
	}
	eventually(t, "all gaps and the last change", func() bool {
		n = counted(n)
		c := connected()
		got.mu.Lock()
		defer got.mu.Unlock()
		last := len(p.at) - 1
		return len(got.gaps) >= c-1 && last < len(got.ids) && got.ids[last] != 0
	})
	d.signal(os.Interrupt)
	if status := d.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	// Nobody can know the session of a logon that was under way when the daemon was killed.
	unknown := int(sim.Logons()) - 1 - len(noted)
	if left := sim.Sessions(); left > unknown || len(noted) < kills/3 {
		t.Errorf("%d sessions are left on the HMC after %d logons, %d of which were noted", left, sim.Logons(), len(noted))
	}
	counts, total = append(counts, n), total+n
	p.compare(t, got, began, counts)
	t.Logf("%d kills in %s; %d changes published, %d arrived, %d of them again, %d counted; connected %d times, %d gaps",
		kills, time.Since(began).Round(time.Second), len(p.at), arrived(got.ids), got.again, total, len(got.connected), len(got.gaps))
	if total == 0 || len(got.connected) < kills/3 {
		t.Error("the daemon was hardly ever connected")
	}
}

// run publishes until stop is closed. What a busy machine delays is made up for, but not at once.
func (p *published) run(sim *hmcsim.HMC, perSecond float64, every time.Duration, began time.Time, stop <-chan struct{}) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	rest, last := 0.0, time.Now()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		rest += time.Since(last).Seconds() * perSecond
		last = time.Now()
		for rest = min(rest, perSecond/10); rest >= 1; rest-- {
			p.mu.Lock()
			number := len(p.at)
			at := time.Since(began)
			n := sim.Publish("object", []hmcsim.Header{
				{Name: "notification-type", Value: "property-change"},
				{Name: "class", Value: "partition"},
				{Name: "name", Value: "P"},
				{Name: "object-uri", Value: "/api/partitions/P" + strconv.Itoa(number%50)},
				{Name: "property-names", Value: " description "},
			}, fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":null,"new-value":"%d"}]}`, number))
			p.at, p.sent = append(p.at, at), append(p.sent, n > 0)
			p.mu.Unlock()
		}
	}
}

func (p *published) newLife() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.life = append(p.life, len(p.at))
}

// compare says what is wrong with what has arrived.
func (p *published) compare(t *testing.T, got *arrivals, began time.Time, counts []int) {
	t.Helper()
	got.ids = append(got.ids, make([]uint64, max(0, len(p.at)-len(got.ids)))...)
	var gaps []arrivedGap
	for _, g := range got.gaps {
		gaps = append(gaps, g)
		if g.To.Before(g.From) {
			t.Errorf("a gap from %s to %s", g.From, g.To)
		}
		if len(g.Causes) == 0 || len(g.Missing) == 0 {
			t.Errorf("a gap without a cause, or with nothing missing: %+v", g)
		}
	}
	slices.SortFunc(gaps, func(a, b arrivedGap) int { return a.To.Compare(b.To) })
	for i := 1; i < len(gaps); i++ {
		if gaps[i].From.Before(gaps[i-1].To.Add(-time.Millisecond)) {
			got.problem("gap %+v begins within the one before, %+v", gaps[i], gaps[i-1])
		}
	}
	if len(gaps) != len(got.connected)-1 {
		got.problem("%d gaps, and %d times connected", len(gaps), len(got.connected))
	}
	for life, first := range p.life {
		end := len(p.at)
		if life+1 < len(p.life) {
			end = p.life[life+1]
		}
		if n := arrived(got.ids[first:end]); n < counts[life] {
			got.problem("life %d: %d changes were counted, %d arrived", life, counts[life], n)
		}
	}
	unnamed, beforeAll := 0, slices.IndexFunc(got.ids, func(id uint64) bool { return id != 0 })
	var last time.Time // when what was published before was received
	for number, id := range got.ids[:len(p.at)] {
		at := began.Add(p.at[number])
		if id != 0 {
			last = got.received[number]
		} else if last.After(at) {
			// What is lost was on its way: the daemon's time without it begins when it received
			// the one before, however long that took.
			at = last
		}
		i, _ := slices.BinarySearchFunc(gaps, at, func(g arrivedGap, at time.Time) int { return g.To.Add(gapSlack).Compare(at) })
		named := i < len(gaps) && !gaps[i].From.Add(-gapSlack).After(at)
		if id == 0 && !named && number > beforeAll {
			if unnamed++; unnamed <= 5 {
				got.problem("change %d of %s, sent %v, has not arrived, and no gap names the time", number, at.UTC().Format("15:04:05.000"), p.sent[number])
			}
		}
	}
	if unnamed > 0 {
		got.problem("%d changes have not arrived, and no gap names them", unnamed)
	}
	for _, problem := range got.problems {
		t.Error(problem)
	}
}

func arrived(ids []uint64) (n int) {
	for _, id := range ids {
		if id != 0 {
			n++
		}
	}
	return n
}

// sumOf adds up the series of a metric that have a label.
func sumOf(text, name, label string) int {
	sum := 0.0
	for line := range bytes.Lines([]byte(text)) {
		series, ok := bytes.CutPrefix(line, []byte(name+"{"))
		if !ok || !bytes.Contains(series, []byte(label)) {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(string(series[bytes.LastIndexByte(series, ' '):])), 64)
		if err == nil {
			sum += n
		}
	}
	return int(sum)
}

func startEast(t *testing.T) *hmcsim.HMC {
	t.Helper()
	return hmctest.Start(t, hmcsim.Options{Name: "east", CPCs: 1, Partitions: 2})
}

func freeAddress(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", started.FreePort(t))
}
