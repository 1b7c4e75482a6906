package receiver

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	stomp "github.com/go-stomp/stomp/v3/frame"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/budget"
)

// Several HMCs send large bodies at the same time, and nobody takes them: what is read stays within the budget of all, what has
// no room is counted, and all of the budget is given back.
func TestBudgetOfAll(t *testing.T) {
	const links, bodies, size = 4, 10, 1 << 20
	all := budget.New(4 << 20)
	large := strings.Repeat("x", size)
	var receivers []*Receiver
	var missed atomic.Int64
	for range links {
		p := startPeer(t, "", func(_ int, c *peerConn) {
			c.serve(connected00, func(c *peerConn, sub *stomp.Frame) {
				for range bodies {
					_ = c.send("%s", message(sub.Header.Get("id"), "u.1", `{"a":"`+large+`"}`))
					_ = c.send("%s", message(sub.Header.Get("id"), "u.1", `{}`))
				}
				_ = c.send("%s", message("of nobody", "u.1", large))
				_ = c.send("%s", message(sub.Header.Get("id"), "u.1", "last"))
			})
		})
		o := p.options("u.1")
		o.Budget, o.Limits = all, Limits{Handover: 64 << 10, HandoverWait: 100 * time.Millisecond, Body: 2 * size}
		o.OnMissed = func(string) { missed.Add(1) }
		r := newReceiver(t, o)
		must(t, r.Connect(t.Context()))
		receivers = append(receivers, r)
	}
	buffered := func() (n int) {
		for _, r := range receivers {
			n += r.Buffered()
		}
		return n
	}
	const sent = links * (2*bodies + 1)
	eventually(t, "all is received or missed", func() bool { return buffered()+int(missed.Load()) == sent })
	if got := buffered(); got < 4 || missed.Load() < links*bodies-8 {
		t.Errorf("%d buffered, %d missed", got, missed.Load())
	}
	if used := all.Used(); used < 2<<20 {
		t.Errorf("%d are taken", used)
	}
	for _, r := range receivers {
		takeAll(t, r)
	}
	eventually(t, "all is given back", func() bool { return all.Used() == 0 })
}

// takeAll takes what a receiver has, and ends it: what is yielded is given back when the next one is asked for.
func takeAll(t *testing.T, r *Receiver) {
	t.Helper()
	get := pull(t, r)
	for range r.Buffered() {
		_, _ = next(t, get)
	}
	must(t, r.Close())
	for range 10 {
		if _, _, ok := get(); !ok {
			break
		}
	}
}

// Where there is no room at the moment, the sender is held up, and nothing is lost.
func TestBudgetHoldsUp(t *testing.T) {
	const count, size = 8, 512 << 10
	all := budget.New(1<<20 + 4096)
	p := startPeer(t, "", func(_ int, c *peerConn) {
		c.serve(connected00, func(c *peerConn, sub *stomp.Frame) {
			for i := range count {
				_ = c.send("%s", message(sub.Header.Get("id"), "u.1", fmt.Sprintf(`{"n":%d,"x":"%s"}`, i, strings.Repeat("x", size))))
			}
		})
	})
	o := p.options("u.1")
	o.Budget, o.Limits = all, Limits{Handover: 64 << 10, HandoverWait: time.Minute, Body: 1 << 20}
	o.OnMissed = func(string) { t.Error("missed a notification") }
	got := 0
	for n, err := range newReceiver(t, o).Notifications(t.Context()) {
		if want := fmt.Sprintf(`{"n":%d,`, got); err != nil || !strings.HasPrefix(string(n.Body), want) {
			t.Fatalf("%.20s, %v, want %s", n.Body, err, want)
		}
		if got++; got == count {
			break
		}
	}
	eventually(t, "all is given back", func() bool { return all.Used() == 0 })
}

// What a Receiver has that nobody asks for any more is given back when it is gone.
func TestBudgetOfWhatIsLeft(t *testing.T) {
	all := budget.New(8 << 20)
	func() {
		p := startPeer(t, "", func(_ int, c *peerConn) {
			c.serve(connected00, func(c *peerConn, sub *stomp.Frame) {
				_ = c.send("%s", message(sub.Header.Get("id"), "u.1", strings.Repeat("x", 1<<20)))
			})
		})
		o := p.options("u.1")
		o.Budget, o.Limits = all, Limits{Handover: 64 << 10}
		r, err := New(o)
		must(t, err)
		must(t, r.Connect(t.Context()))
		eventually(t, "it is received", func() bool { return r.Buffered() == 1 })
		must(t, r.Close())
		if all.Used() < 1<<20 {
			t.Errorf("%d are taken", all.Used())
		}
	}()
	eventually(t, "all is given back", func() bool { runtime.GC(); return all.Used() == 0 })
}

// All headers of a frame together are bounded, not only each of them.
func TestHeadersAreBounded(t *testing.T) {
	line := "x:" + strings.Repeat("y", 60_000) + "\n"
	for n, ok := range map[int]bool{16: true, 18: false} {
		fr := newFrameReader(strings.NewReader("MESSAGE\n"+strings.Repeat(line, n)+"\nbody\x00"), testLimits(t, Limits{}))
		f, err := fr.next()
		if ok != (err == nil) || !ok && !strings.Contains(err.Error(), "more than 1048576 bytes of headers") {
			t.Errorf("%d headers: %v", n, err)
		}
		if ok && (len(f.headers) != n || string(f.body) != "body") {
			t.Errorf("%d headers, body %q", len(f.headers), f.body)
		}
	}
}

// Notifications that come faster than they are taken hold the sender up, and take nothing of the
// budget: that is for a consumer who stands still.
func TestBudgetIsNotForAHurry(t *testing.T) {
	const count = 2000
	all := budget.New(1 << 20)
	p := startPeer(t, "", func(_ int, c *peerConn) {
		c.serve(connected00, func(c *peerConn, sub *stomp.Frame) {
			for i := range count {
				_ = c.send("%s", message(sub.Header.Get("id"), "u.1", fmt.Sprintf(`{"n":%d,"x":"%s"}`, i, strings.Repeat("x", 500))))
			}
		})
	})
	o := p.options("u.1")
	o.Budget, o.Limits = all, Limits{Handover: 64 << 10, HandoverWait: time.Minute}
	o.OnMissed = func(string) { t.Error("missed a notification") }
	got, most := 0, 0
	for _, err := range newReceiver(t, o).Notifications(t.Context()) {
		if most = max(most, all.Used()); err != nil {
			t.Fatal(err)
		}
		if got++; got == count {
			break
		}
	}
	if most > 0 {
		t.Errorf("%d bytes of the budget were taken", most)
	}
}

// Where the sender may not be held up, the budget is taken at once, and what has no room in it is missed.
func TestBudgetInPlaceOfHoldingUp(t *testing.T) {
	const count, size = 200, 2000
	all := budget.New(100 << 10)
	var missed atomic.Int64
	p := startPeer(t, "", func(_ int, c *peerConn) {
		c.serve(connected00, func(c *peerConn, sub *stomp.Frame) {
			for range count {
				_ = c.send("%s", message(sub.Header.Get("id"), "u.1", strings.Repeat("x", size)))
			}
		})
	})
	o := p.options("u.1")
	o.Budget, o.Limits = all, Limits{Handover: 64 << 10, HandoverWait: time.Hour}
	o.HandoverHold = func() bool { return false }
	o.OnMissed = func(string) { missed.Add(1) }
	r := newReceiver(t, o)
	must(t, r.Connect(t.Context()))
	eventually(t, "all is received or missed", func() bool { return r.Buffered()+int(missed.Load()) == count })
	if used := all.Used(); used < 90<<10 || missed.Load() == 0 {
		t.Errorf("%d bytes of the budget are taken, %d missed", used, missed.Load())
	}
	takeAll(t, r)
	eventually(t, "all is given back", func() bool { return all.Used() == 0 })
}
