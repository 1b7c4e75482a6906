package web

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// roomOf listens on two addresses with a room of their own, and hands out what is accepted.
func roomOf(t *testing.T, places int, newFor time.Duration) (addrs [2]string, accepted chan net.Conn) {
	t.Helper()
	room := NewRoom(places)
	room.newFor = newFor
	accepted = make(chan net.Conn, 100)
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait) // after the others
	for i := range addrs {
		inner, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l := room.Listener(inner)
		addrs[i] = inner.Addr().String()
		serving.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
					return
				}
				accepted <- c
			}
		})
		t.Cleanup(func() { _ = l.Close() })
	}
	return addrs, accepted
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A room is full: the connection over which nothing has gone for longest gives way, whatever
// listener it came by; one that is closed gives back one place.
func TestIdleConnectionGivesWay(t *testing.T) {
	t.Parallel()
	addrs, accepted := roomOf(t, 3, 0)
	var clients, servers []net.Conn
	connect := func() {
		clients = append(clients, dial(t, addrs[len(clients)%2]))
		servers = append(servers, <-accepted)
	}
	for range 3 {
		connect()
	}
	// something goes over the first and the third, in either direction
	if _, err := clients[0].Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := servers[0].Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := servers[2].Write(make([]byte, 3*writePiece/2)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(clients[2], make([]byte, 3*writePiece/2)); err != nil {
		t.Fatal(err)
	}
	connect()
	if _, err := clients[1].Read(make([]byte, 1)); err == nil {
		t.Error("the second one has its place still")
	}
	connect() // the first one goes
	if _, err := clients[0].Read(make([]byte, 1)); err == nil {
		t.Error("the first one has its place still")
	}
	_ = servers[3].Close()
	_ = servers[3].Close()
	connect() // in the place of the fourth
	for _, i := range []int{2, 4, 5} {
		if _, err := clients[i].Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := servers[i].Read(make([]byte, 1)); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
		_ = servers[i].Close()
	}
}

// A new connection has its time, also where all others are busy; where all are new, the first goes.
func TestNewConnectionHasItsTime(t *testing.T) {
	t.Parallel()
	addrs, accepted := roomOf(t, 3, time.Hour)
	var clients []net.Conn
	for range 5 {
		clients = append(clients, dial(t, addrs[0]))
		s := <-accepted
		defer s.Close()
		if _, err := s.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range clients {
		_, err := io.ReadFull(c, make([]byte, 1))
		if i >= 2 && err != nil {
			t.Errorf("connection %d: %v", i, err)
		} else if i < 2 {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Errorf("connection %d has its place still", i)
			}
		}
	}
}

// Large answers that nobody reads give their place to one that somebody does.
func TestUnreadAnswersGiveWay(t *testing.T) {
	t.Parallel()
	d := newDesk()
	var under, most atomic.Int32
	server := httptest.NewServer(d.serving(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		most.Store(max(most.Load(), under.Add(1)))
		defer under.Add(-1)
		n := 64 << 20 // more than sockets hold
		if r.URL.Path == "/small" {
			n = 1 << 10
		}
		_, _ = w.Write(make([]byte, n))
	})))
	t.Cleanup(server.Close)
	for range 3 * largeAnswers {
		c := dial(t, server.Listener.Addr().String())
		if _, err := io.WriteString(c, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	c := dial(t, server.Listener.Addr().String())
	if _, err := io.WriteString(c, "GET /small HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK || len(body) != 1<<10 {
		t.Errorf("%d, %d bytes, %v", resp.StatusCode, len(body), err)
	}
	if most := most.Load(); most > largeAnswers {
		t.Errorf("%d at a time", most)
	}
}

// Who waits too long for a place is told so.
func TestNoPlaceForLargeAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		var others []*served
		for range largeAnswers {
			others = append(others, &served{control: http.NewResponseController(httptest.NewRecorder())})
			if !d.take(t.Context(), others[len(others)-1]) {
				t.Fatal("no place")
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), largeTime/2)
		defer cancel()
		w := httptest.NewRecorder()
		d.serving(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", http.NoBody))
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("%d %v", w.Code, w.Header())
		}
		time.Sleep(largeTime)
		go func() {
			time.Sleep(time.Second) // until one of them notices that it has lost its place
			d.leave(others[0])
		}()
		w = httptest.NewRecorder()
		d.serving(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
		if w.Code != http.StatusNotFound {
			t.Errorf("%d after another has left", w.Code)
		}
	})
}

// Those who ask while something is made get what is begun after that, together.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			s     shared[int]
			n     int
			began = make(chan struct{}, 10)
			go1   = make(chan struct{})
		)
		how := func() int {
			n++ // one at a time
			began <- struct{}{}
			<-go1
			return n
		}
		var all sync.WaitGroup
		all.Go(func() {
			if v := s.get(how); v != 1 {
				t.Errorf("the first one got %d", v)
			}
		})
		<-began
		for range 100 {
			all.Go(func() {
				if v := s.get(how); v != 2 {
					t.Errorf("got %d", v)
				}
			})
		}
		synctest.Wait()
		close(go1)
		all.Wait()
		if n != 2 {
			t.Errorf("made %d times", n)
		}
		if v := s.get(how); v != 3 {
			t.Errorf("%d: it was made before it was asked for", v)
		}
	})
}

func TestPace(t *testing.T) {
	var p pace
	at := time.Now()
	allowed := 0
	for range 5 * 100 { // 5 s
		if p.allows(at) {
			allowed++
		}
		at = at.Add(10 * time.Millisecond)
	}
	if allowed != 5*changesPerSecond {
		t.Errorf("%d in 5 s", allowed)
	}
}
