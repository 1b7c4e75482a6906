package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// leaderEnv has what a child process is to lead.
const leaderEnv = "HMCNOTIFYD_TEST_CLUSTER_LEADER"

type leaderSettings struct {
	URLs []string
	Name string
	TTL  time.Duration
	// Pause is that after each number.
	Pause time.Duration
}

// lead is a process that leads when it can, writes numbers that build on each other, and prints
// "leads", "c NUMBER" for what is confirmed, and "over" when it has been deposed: then it stands by
// again.
func lead(text string) error {
	var s leaderSettings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	ctx := context.Background()
	var c *Cluster
	for c == nil { // the cluster may have no leader for a moment
		var err error
		if c, err = Connect(ctx, Options{URLs: s.URLs, Name: s.Name, Replicas: 3}); err != nil {
			fmt.Println(err)
			time.Sleep(retryWait)
		}
	}
	defer c.Close()
	for {
		term, err := c.Lead(ctx, LeaseOptions{TTL: s.TTL}, nil)
		if err != nil {
			return err
		}
		var q *queue.Queue
		store, err := term.NewStore(ctx, StoreOptions{})
		if err == nil {
			q, err = queue.Open(queue.Options{Store: store, SegmentBytes: 256 << 10})
		}
		if err != nil {
			fmt.Println(err)
			if err := term.End(ctx); err != nil {
				fmt.Println(err)
			}
			continue
		}
		fmt.Println("leads")
		for store.Why() == nil {
			v, _ := q.State("n")
			n, _ := strconv.Atoi(string(v))
			err := put(q, queue.Batch{
				Records: [][]byte{fmt.Appendf(nil, "n %d", n+1)},
				State:   []queue.KeyValue{{Key: "n", Value: strconv.AppendInt(nil, int64(n+1), 10)}},
			})
			if err == nil {
				fmt.Println("c", n+1)
				time.Sleep(s.Pause)
			} else if !errors.Is(err, ErrDeposed) {
				fmt.Println(err)
			}
		}
		_ = q.Close()
		if err := term.End(ctx); err != nil {
			fmt.Println(err)
		}
		fmt.Println("over")
	}
}

// watcher follows what a process prints.
type watcher struct {
	process *program.Process

	mu        sync.Mutex
	leads     time.Time // zero: it does not
	confirmed int
	count     int // of confirmations
	done      chan struct{}
}

func watch(t *testing.T, text string) *watcher {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &watcher{done: make(chan struct{})}
	p.process = program.Start(t, program.Options{Name: "leader", Path: self, Env: []string{leaderEnv + "=" + text}, Stdout: w})
	_ = w.Close() // the child has it
	go func() {
		defer close(p.done)
		defer r.Close()
		for lines := bufio.NewScanner(r); lines.Scan(); {
			p.mu.Lock()
			number, ok := strings.CutPrefix(lines.Text(), "c ")
			switch n, _ := strconv.Atoi(number); {
			case ok:
				p.confirmed, p.count = max(p.confirmed, n), p.count+1
			case lines.Text() == "leads":
				p.leads = time.Now()
			case lines.Text() == "over":
				p.leads = time.Time{}
			}
			p.mu.Unlock()
		}
	}()
	return p
}

func (p *watcher) state() (leads time.Time, confirmed, count int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leads, p.confirmed, p.count
}

// Of two daemons the one that leads is killed, or held up for three times the TTL, again and again.
// The other one leads soon, what was confirmed is in the log once and in order, and who wakes up
// again steps down.
func TestLeaderKilled(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	servers := natscluster.Start(t, 3)
	const ttl = 2 * time.Second
	text, err := json.Marshal(leaderSettings{servers.URLs(), "x", ttl, pause(t)})
	if err != nil {
		t.Fatal(err)
	}
	direct := connect(t, "x", 3, servers.URLs()...)
	prepared, _ := openQueue(t, direct, 1)
	newCursor(t, prepared, "all")
	if err := prepared.Close(); err != nil {
		t.Fatal(err)
	}
	pair := []*watcher{watch(t, string(text)), watch(t, string(text))}
	leader := func() int {
		for i, p := range pair {
			if leads, _, count := p.state(); !leads.IsZero() && count > 0 {
				return i
			}
		}
		return -1
	}
	confirmed := 0
	note := func() {
		for _, p := range pair {
			_, n, _ := p.state()
			confirmed = max(confirmed, n)
		}
	}
	var slowest time.Duration
	for i := range soak.Count(t, "CLUSTER_KILLS", 2, 50) {
		waitFor(t, "one to lead and to write", func() bool { return leader() >= 0 })
		time.Sleep(time.Duration(random.IntN(600)) * time.Millisecond)
		old := leader()
		if old < 0 {
			continue // it has just been deposed by a slow machine
		}
		_, _, before := pair[1-old].state()
		began := time.Now()
		held := i%2 == 1
		if held {
			pair[old].process.Signal(t, syscall.SIGSTOP)
		} else {
			pair[old].process.Kill()
			<-pair[old].done
		}
		waitFor(t, "the other to lead and to write", func() bool {
			leads, _, count := pair[1-old].state()
			return !leads.IsZero() && count > before
		})
		slowest = max(slowest, time.Since(began))
		if held {
			time.Sleep(max(0, 3*ttl-time.Since(began)))
			pair[old].process.Signal(t, syscall.SIGCONT)
			waitFor(t, "the old one to step down", func() bool { leads, _, _ := pair[old].state(); return leads.IsZero() })
			note()
			continue
		}
		note()
		pair[old] = watch(t, string(text))
	}
	t.Logf("slowest take-over %s with a TTL of %s", slowest, ttl)
	for _, p := range pair {
		p.process.Kill()
		<-p.done
	}
	note()
	last, err := direct.Lead(t.Context(), LeaseOptions{TTL: ttl}, nil)
	if err != nil {
		t.Fatal(err)
	}
	store, err := last.NewStore(t.Context(), StoreOptions{Patience: patience})
	if err != nil {
		t.Fatal(err)
	}
	q, err := queue.Open(queue.Options{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	records := all(t, newCursor(t, q, "all"))
	(&counter{name: "n", confirmed: confirmed}).judge(t, records)
	t.Logf("%d confirmed, %d in the log", confirmed, len(records))
	if err := errors.Join(q.Close(), last.End(t.Context())); err != nil {
		t.Error(err)
	}
}
