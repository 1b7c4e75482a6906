package queue

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// told returns what record or value number n says: all of it follows from that.
func told(n uint64) []byte {
	r := rand.New(rand.NewPCG(n, 6))
	size := r.IntN(400)
	switch r.IntN(60) {
	case 0:
		size = smallChunk - 200 + r.IntN(400)
	case 1:
		size = storage.BlockSize - 200 + r.IntN(400)
	case 2:
		size = r.IntN(3 * storage.BlockSize)
	}
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 8+size), n)
	for range size {
		b = append(b, byte(r.Uint32()))
	}
	return b
}

func untold(b []byte) error {
	if len(b) < 8 || !bytes.Equal(b, told(binary.BigEndian.Uint64(b))) {
		return fmt.Errorf("%.20x of %d bytes is not what was stored", b, len(b))
	}
	return nil
}

// holder keeps records for as long as a sink may, and looks at them then.
type holder struct {
	t    *testing.T
	held []Record
	last uint64
}

func (h *holder) keep(records []Record) {
	for _, r := range records {
		n := uint64(0)
		if len(r.Data) >= 8 {
			n = binary.BigEndian.Uint64(r.Data)
		}
		if n <= h.last {
			h.t.Errorf("record %d: %d comes after %d", r.Seq, n, h.last)
		}
		h.last = n
	}
	h.held = append(h.held, records...)
	h.look(800)
}

// look looks at all but the newest ones, and lets go of them.
func (h *holder) look(but int) {
	for ; len(h.held) > but; h.held = h.held[1:] {
		if err := untold(h.held[0].Data); err != nil {
			h.t.Errorf("record %d: %v", h.held[0].Seq, err)
		}
	}
}

// The memory of a group is used for others while records of it are in use, by whoever reads: none of them
// changes, in memory or in the store, whatever the sizes, and where groups are refused.
func TestMemoryIsUsedAgain(t *testing.T) {
	t.Parallel()
	batches := soak.Count(t, "QUEUE_MEMORY", 1500, 30_000)
	if testing.Short() {
		batches = 300
	}
	for i, cache := range []int64{0, 200 << 10, 1} {
		t.Run(fmt.Sprint(cache), func(t *testing.T) {
			t.Parallel()
			refuse := rand.New(rand.NewPCG(uint64(i), 7)) // used by the committer
			q := openRefusing(t, Options{Dir: scratch.Memory(t), SegmentBytes: 1 << 20, CacheBytes: cache}, func(g *Group) error {
				if refuse.IntN(300) == 0 && !g.Empty() {
					return syscall.ENOSPC
				}
				return nil
			})
			cursor(t, q, "later")
			var group, waiting sync.WaitGroup
			const end = 1 << 62 // stops the readers
			for seed := range uint64(3) {
				c := cursor(t, q, fmt.Sprint(seed))
				group.Go(func() { readAndHold(t, c, rand.New(rand.NewPCG(seed, 8)), end) })
			}
			reader := q.Reader(0, false)
			group.Go(func() {
				defer reader.Close()
				h := &holder{t: t}
				for h.last < end {
					records, err := reader.Next(t.Context(), 100, 0)
					if err != nil {
						t.Error(err)
						return
					}
					h.keep(records)
				}
				h.look(0)
			})

			r, n, state := rand.New(rand.NewPCG(uint64(i), 9)), uint64(0), map[string]uint64{}
			var mu sync.Mutex // of state
			put := func(records int) {
				b := Batch{}
				for range records {
					n++
					b.Records = append(b.Records, told(n))
				}
				if r.IntN(2) == 0 || records == 0 {
					n++
					b.State = []KeyValue{{Key: fmt.Sprint("k", n%20), Value: told(n)}}
				}
				number, key := n, fmt.Sprint("k", n%20)
				waiting.Add(1)
				b.Done = func(err error) {
					if err == nil && b.State != nil {
						mu.Lock()
						state[key] = number
						mu.Unlock()
					}
					waiting.Done()
				}
				if err := q.Append(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				if r.IntN(3) > 0 {
					waiting.Wait()
				}
			}
			for range batches {
				put(r.IntN(4))
			}
			waiting.Wait()
			for n = end; tryPut(q, string(told(n))) != nil; n++ {
			}
			group.Wait()

			q = reopen(t, q)
			for key, n := range state {
				if v, _ := q.State(key); !bytes.Equal([]byte(v), told(n)) {
					t.Errorf("%s is not what was stored last", key)
				}
			}
			h, c := &holder{t: t}, cursor(t, q, "later")
			for h.last < end {
				h.keep(next(t, c, 1))
			}
			h.look(0)
		})
	}
}

// readAndHold reads, goes back at times, and asks again for what it has read, up to a record that says
// at least end.
func readAndHold(t *testing.T, c *Cursor, r *rand.Rand, end uint64) {
	h := &holder{t: t}
	for h.last < end {
		records, err := c.Next(t.Context(), 1+r.IntN(50), 0)
		if err != nil {
			t.Error(err)
			return
		}
		h.keep(records)
		if r.IntN(4) == 0 {
			var seqs []uint64
			for _, record := range records {
				seqs = append(seqs, record.Seq)
			}
			again, err := c.Again(seqs)
			if err != nil {
				t.Error(err)
				return
			}
			h.held = append(h.held, again...)
		}
		if r.IntN(10) == 0 {
			if err := c.Ack(records[len(records)-1].Seq); err != nil {
				t.Error(err)
			}
		}
		if r.IntN(300) == 0 && h.last < end {
			c.Rewind()
			h.last = 0
		}
	}
	h.look(0)
}
