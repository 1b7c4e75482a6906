package receiver

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"testing"
)

func numbered(from, n, size int) []item {
	items := make([]item, n)
	for i := range items {
		items[i] = item{notification: Notification{Topic: strconv.Itoa(from + i)}, size: size}
	}
	return items
}

// TestHandoverOrder moves items through the ring in random portions, some of which are put back, and checks that
// every one comes out once and in order, and that the bytes add up.
func TestHandoverOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	h := newHandover(1 << 30)
	pushed, popped := 0, 0
	var into [popCount]item
	for popped < 20000 {
		n := rnd.IntN(200)
		if got := h.push(numbered(pushed, n, 10), false); got != n {
			t.Fatalf("pushed %d of %d", got, n)
		}
		pushed += n
		for range rnd.IntN(5) {
			n := h.pop(&into)
			keep := 0
			if n > 0 {
				keep = rnd.IntN(n + 1)
			}
			for i := range keep {
				if want := strconv.Itoa(popped); into[i].notification.Topic != want {
					t.Fatalf("popped %s, want %s", into[i].notification.Topic, want)
				}
				popped++
			}
			h.unpop(into[keep:n])
		}
		if h.len() != pushed-popped || h.bytes != 10*(pushed-popped) {
			t.Fatalf("%d items of %d bytes, want %d of %d", h.len(), h.bytes, pushed-popped, 10*(pushed-popped))
		}
	}
	for h.pop(&into) > 0 {
	}
	if h.bytes != 0 || len(h.ring) > 4*popCount {
		t.Errorf("empty, but %d bytes and a ring of %d", h.bytes, len(h.ring))
	}
}

func TestHandoverLimit(t *testing.T) {
	h := newHandover(100)
	if n := h.push(numbered(0, 1, 1000), false); n != 1 {
		t.Error("an item larger than the buffer has no room in the empty buffer")
	}
	if n := h.push(numbered(0, 1, 1), false); n != 0 {
		t.Error("a full buffer takes an item")
	}
	if n := h.push([]item{{err: errors.New("forced"), size: 1}}, true); n != 1 {
		t.Error("a full buffer refuses a forced item")
	}
	var into [popCount]item
	if n := h.pop(&into); n != 2 || into[1].err == nil {
		t.Errorf("popped %d items, want 2", n)
	}
	if n := h.push(numbered(0, 20, 10), false); n != 10 {
		t.Errorf("a buffer of 100 bytes takes %d items of 10", n)
	}
}

// TestHandoverPopBytes checks that a consumer does not hold much that no longer counts.
func TestHandoverPopBytes(t *testing.T) {
	h := newHandover(1 << 30)
	h.push(numbered(0, 10, popBytes/4), false)
	var into [popCount]item
	if n := h.pop(&into); n != 4 {
		t.Errorf("popped %d items of a quarter of the limit", n)
	}
	h = newHandover(1 << 30)
	h.push(numbered(0, 2, 2*popBytes), false)
	if n := h.pop(&into); n != 1 {
		t.Errorf("popped %d items of twice the limit", n)
	}
}
