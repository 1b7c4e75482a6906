package cluster

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
)

func openLetters(t *testing.T, c *Cluster) *Letters {
	t.Helper()
	l, err := c.OpenLetters(LettersOptions{Patience: patience})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A record comes back as it was, however large it is, and nothing of it is left when it is removed.
func TestLargeLetters(t *testing.T) {
	t.Parallel()
	c := connect(t, "x", 1, natscluster.Single(t, func(o *server.Options) { o.MaxPayload = LeastPayload }))
	l := openLetters(t, c)
	random := rand.New(rand.NewPCG(1, 2))
	sizes := []int{0, 1, inlineBytes, inlineBytes + 1, LeastPayload - 1, LeastPayload, 3 << 20}
	var letters []queue.DeadLetter
	for _, size := range sizes {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		letters = append(letters, queue.DeadLetter{Sink: "s", EventID: fmt.Sprint(size), Data: b})
	}
	if err := l.Put(letters...); err != nil {
		t.Fatal(err)
	}
	// What a daemon has left that was killed before the letter was there.
	if _, err := l.publish(t.Context(), []outgoing{{subject: dataSubject + idOf(5) + ".0", data: []byte("left")}}); err != nil {
		t.Fatal(err)
	}
	messages := func() uint64 {
		stream, err := c.js.Stream(t.Context(), DeadStream("x"))
		if err != nil {
			t.Fatal(err)
		}
		return stream.CachedInfo().State.Msgs
	}
	before := messages()
	l = openLetters(t, c)
	if after := messages(); after != before-1 {
		t.Errorf("%d messages after %d: what belongs to no letter is still there", after, before)
	}
	all, err := l.List(queue.DeadLetterFilter{})
	if err != nil || len(all) != len(letters) {
		t.Fatalf("%d letters, %v", len(all), err)
	}
	for i := range all {
		d := all[i]
		d.Reason, d.Time = "again", time.Now()
		if err := l.Update(d); err != nil {
			t.Fatal(err)
		}
		got, err := l.Get(d.ID)
		if err != nil || got.EventID != letters[i].EventID || got.Reason != "again" || !bytes.Equal(got.Data, letters[i].Data) {
			t.Errorf("letter %d: %d bytes, %q, %v", i, len(got.Data), got.Reason, err)
		}
	}
	if n, err := queue.Purge(l, queue.DeadLetterFilter{}); n != len(letters) || err != nil {
		t.Errorf("%d purged, %v", n, err)
	}
	if n := messages(); n != 0 {
		t.Errorf("%d messages are left", n)
	}
}

// While the network fails, what Put has said is kept is kept, and what it has counted as deleted is
// gone; after a restart the same is known.
func TestLettersOverBadNetwork(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	w := newWire()
	c, err := Connect(t.Context(), Options{
		URLs: []string{url}, Name: "x", Replicas: 1, Logon: []nats.Option{nats.SetCustomDialer(w), nats.Timeout(patience)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	l := openLetters(t, c)
	l.opts.Patience = 300 * time.Millisecond
	stop := make(chan struct{})
	var work sync.WaitGroup
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	work.Go(func() { w.trouble(stop, rand.New(rand.NewPCG(seed, 1)).IntN) })
	kept := map[string]bool{} // false: it is gone
	for end, i := time.Now().Add(3*time.Second), 0; time.Now().Before(end) || len(kept) == 0; i++ {
		event := fmt.Sprint(i)
		time.Sleep(pause(t) / 2)
		if l.Put(queue.DeadLetter{Sink: "s", EventID: event, Data: make([]byte, i%3*inlineBytes)}) != nil {
			continue
		}
		kept[event] = true
		if i%2 == 0 {
			l.mu.Lock()
			id := idOf(l.last)
			l.mu.Unlock()
			if n, err := l.Delete(id); n == 1 {
				kept[event] = false
			} else if err == nil {
				t.Errorf("%s was not deleted", id)
			}
		}
	}
	close(stop)
	work.Wait()
	t.Logf("%d letters were kept", len(kept))
	l = openLetters(t, connect(t, "x", 1, url))
	found := map[string]int{}
	all, err := l.List(queue.DeadLetterFilter{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		found[all[i].EventID]++
		if _, err := l.Get(all[i].ID); err != nil {
			t.Error(err)
		}
	}
	for event, is := range kept {
		n, err := strconv.Atoi(event)
		if is && found[event] == 0 && (err != nil || n%2 == 1) { // else a delete that has failed has removed it
			t.Errorf("the letter of event %s is lost", event)
		}
		if !is && found[event] > 0 {
			t.Errorf("the letter of event %s is back", event)
		}
	}
}
