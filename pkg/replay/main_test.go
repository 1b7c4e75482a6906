package replay

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within is how long a test waits for something that takes moments.
const within = time.Minute

// A store of so many events, one each step, up to now. It has small files, so that it has several.
const (
	storedEvents = 2000
	storedStep   = 30 * time.Second
)

func idOf(i int) string { return fmt.Sprintf("event-%d", i) }

// stored fills a store and opens it; the first event was received at the time that is returned. They take turns in two types,
// two HMCs and five resources.
func stored(t *testing.T) (*queue.Queue, time.Time) {
	t.Helper()
	opts := queue.Options{Dir: t.TempDir(), SegmentBytes: 256 << 10, CacheBytes: 1, Retain: 1000 * time.Hour}
	began := time.Now().Round(0).Add(-storedEvents * storedStep)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(began.Add(-time.Second)))
		q, err := queue.Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		var b queue.Batch
		for i := range storedEvents {
			time.Sleep(time.Until(began.Add(time.Duration(i) * storedStep)))
			e := &event.Event{
				ID: idOf(i), HMC: []string{"east", "west"}[i%2], Type: []string{event.TypeStatusChange, event.TypeOSMessage}[i%4/2],
				Received: time.Now(), Time: time.Now(), Severity: event.SeverityInfo, Origin: event.OriginLive,
				Resource: &event.Resource{Class: "partition", Name: fmt.Sprintf("R%d", i%5), ObjectURI: fmt.Sprintf("/r/%d", i%5)},
				BodyText: strings.Repeat("x", 1000),
			}
			if b.Records = append(b.Records, event.AppendRecord(nil, e)); len(b.Records) == 10 {
				if err := q.Append(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				b.Records = nil
				if err := q.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	})
	return open(t, opts), began
}

func open(t *testing.T, opts queue.Options) *queue.Queue {
	t.Helper()
	q, err := queue.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

// put stores one more event.
func put(t *testing.T, q *queue.Queue, id string) {
	t.Helper()
	e := &event.Event{ID: id, HMC: "east", Type: event.TypeStatusChange, Received: time.Now(), Severity: event.SeverityInfo, BodyText: "x"}
	if err := q.Append(t.Context(), queue.Batch{Records: [][]byte{event.AppendRecord(nil, e)}}); err != nil {
		t.Fatal(err)
	}
	if err := q.Flush(); err != nil {
		t.Fatal(err)
	}
}

// consumer is a webhook consumer.
type consumer struct {
	*httptest.Server
	mu  sync.Mutex
	ids []string
	// of the next request with these events
	answer func(ids []string) int
}

func newConsumer(t *testing.T) *consumer {
	t.Helper()
	c := new(consumer)
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var events []struct{ ID string }
		if json.Unmarshal(body, &events) != nil {
			events = make([]struct{ ID string }, 1)
			if err := json.Unmarshal(body, &events[0]); err != nil {
				t.Error(err)
			}
		}
		var ids []string
		for _, e := range events {
			ids = append(ids, e.ID)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		status := http.StatusOK
		if c.answer != nil {
			status = cmp.Or(c.answer(ids), http.StatusOK)
		}
		if status == http.StatusOK {
			c.ids = append(c.ids, ids...)
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(c.Close)
	return c
}

// take returns what came since the last call.
func (c *consumer) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := c.ids
	c.ids = nil
	return ids
}

// delivery makes the delivery of a sink, which does not run.
func delivery(t *testing.T, h History, sink string) (*deliver.Delivery, *queue.DeadLetters) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	text := "hmcs: [{name: east, hosts: [h], userid: u, password: p}]\nsinks:\n- " + sink + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	s := cfg.Sinks[0]
	to, err := sinks.New(s, sinks.Options{Version: "test", Store: deliver.Kept(h.Queue, s.Name)})
	if err != nil {
		t.Fatal(err)
	}
	dead, err := queue.OpenDeadLetters(queue.DeadLetterOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := to.Close(); err != nil {
			t.Error(err)
		}
		if err := dead.Close(); err != nil {
			t.Error(err)
		}
	})
	c, err := h.Cursor(t.Context(), s.Name, s.Start)
	if err != nil {
		t.Fatal(err)
	}
	return deliver.New(deliver.Options{
		Config: cfg, Sink: s, To: to, Cursor: c, Dead: dead, Metrics: deliver.NewMetrics(nil), Logger: zap.NewNop(),
		Backlog: h.Backlog(s.Name), May: func() bool { return true },
	}), dead
}
