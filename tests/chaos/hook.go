package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/oracle"
)

// dripPause is between two bytes of an answer that drips.
const dripPause = 40 * time.Millisecond

// hook is a webhook consumer that misbehaves as it is told to.
type hook struct {
	addr string

	mode  atomic.Pointer[hookMode]
	count atomic.Int64 // requests

	mu      sync.Mutex
	server  *http.Server // nil: it is dead
	serving sync.WaitGroup
	got     map[string][]oracle.Arrival // by path
	wrong   []string
}

// hookMode is how requests are answered until done is closed.
type hookMode struct {
	kind string
	done chan struct{}
}

func startHook(addr string) (*hook, error) {
	h := &hook{addr: addr, got: make(map[string][]oracle.Arrival)}
	return h, h.listen()
}

// url is where the events of a sink go.
func (h *hook) url(sink string) string { return "http://" + h.addr + "/" + sink }

func (h *hook) listen() error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", h.addr)
	if err != nil {
		return fmt.Errorf("webhook consumer: %w", err)
	}
	server := &http.Server{Handler: http.HandlerFunc(h.serve), ReadHeaderTimeout: 10 * time.Second}
	h.mu.Lock()
	h.server = server
	h.mu.Unlock()
	h.serving.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			h.complain(err.Error())
		}
	})
	return nil
}

// die closes everything at once.
func (h *hook) die() {
	h.mu.Lock()
	server := h.server
	h.server = nil
	h.mu.Unlock()
	if server != nil {
		server.Close()
	}
}

// misbehave makes it answer as kind says until the returned function is
// called.
func (h *hook) misbehave(kind string) (end func()) {
	m := &hookMode{kind: kind, done: make(chan struct{})}
	h.mode.Store(m)
	return func() {
		h.mode.Store(nil)
		close(m.done)
	}
}

func (h *hook) close() {
	h.die()
	h.serving.Wait()
}

func (h *hook) complain(text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wrong = append(h.wrong, text)
}

// deliveries returns what was accepted of a sink so far, and what was wrong
// with anything.
func (h *hook) deliveries(sink string) (oracle.Deliveries, []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return oracle.Deliveries{Sink: sink, Arrivals: append([]oracle.Arrival(nil), h.got["/"+sink]...)}, append([]string(nil), h.wrong...)
}

func (h *hook) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender went away
	}
	n := h.count.Add(1)
	mode := h.mode.Load()
	if mode == nil {
		h.accept(r.URL.Path, body)
		return
	}
	switch mode.kind {
	case kindHang:
		select {
		case <-mode.done:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	case kindReset:
		panic(http.ErrAbortHandler)
	case kindError:
		w.WriteHeader(http.StatusInternalServerError)
	case kindTooMany:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
	case kindBad:
		if n%4 == 0 {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		h.accept(r.URL.Path, body)
	case kindDrip:
		h.accept(r.URL.Path, body)
		const text = "a slow answer, byte by byte"
		for i := range len(text) {
			if _, err := io.WriteString(w, text[i:i+1]); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush() // as Write
			select {
			case <-mode.done:
			case <-r.Context().Done():
				return
			case <-time.After(dripPause):
			}
		}
	}
}

// accept notes the events of a request, one or a JSON array.
func (h *hook) accept(path string, body []byte) {
	list := []json.RawMessage{body}
	if len(body) > 0 && body[0] == '[' {
		list = nil
		if err := json.Unmarshal(body, &list); err != nil {
			h.complain(fmt.Sprintf("no JSON array: %v: %.200q", err, body))
			return
		}
	}
	for _, raw := range list {
		a, err := oracle.ParseArrival(raw)
		if err != nil {
			h.complain(err.Error())
			continue
		}
		h.mu.Lock()
		h.got[path] = append(h.got[path], a)
		h.mu.Unlock()
	}
}
