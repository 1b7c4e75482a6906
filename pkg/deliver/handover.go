package deliver

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// maxBeyond bounds how many ranges a Done has: what is beyond is sent once more.
const maxBeyond = 4096

// Done is what of the stored events a sink is done with, for whoever delivers to it next: what is
// on its way to a sink may end in any order.
type Done struct {
	// UpTo is the last record of those that are done up to there.
	UpTo uint64 `json:"up_to"`
	// Beyond are the first and the last record of others that are, in order.
	Beyond [][2]uint64 `json:"beyond,omitempty"`
}

// has says whether a record is done.
func (d *Done) has(seq uint64) bool {
	if seq <= d.UpTo {
		return true
	}
	i, _ := slices.BinarySearchFunc(d.Beyond, seq, func(r [2]uint64, seq uint64) int { return cmp.Compare(r[1], seq) })
	return i < len(d.Beyond) && d.Beyond[i][0] <= seq
}

// with returns what is done by either of two.
func (d Done) with(other Done) Done {
	ranges := slices.Concat(d.Beyond, other.Beyond)
	slices.SortFunc(ranges, func(a, b [2]uint64) int { return cmp.Compare(a[0], b[0]) })
	out := Done{UpTo: max(d.UpTo, other.UpTo)}
	for _, r := range ranges {
		switch n := len(out.Beyond); {
		case r[0] <= out.UpTo+1:
			out.UpTo = max(out.UpTo, r[1])
		case n > 0 && r[0] <= out.Beyond[n-1][1]+1:
			out.Beyond[n-1][1] = max(out.Beyond[n-1][1], r[1])
		case n < maxBeyond:
			out.Beyond = append(out.Beyond, r)
		}
	}
	return out
}

// done returns what is done of what was read.
func (p *progress) done() Done {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := Done{UpTo: max(p.upTo, p.cursor.Acked())}
	var beyond [][2]uint64
	for _, e := range p.entries.rest() {
		switch n := len(beyond); {
		case !e.done:
		case n > 0 && beyond[n-1][1]+1 == e.seq:
			beyond[n-1][1] = e.seq
		default:
			beyond = append(beyond, [2]uint64{e.seq, e.seq})
		}
	}
	return d.with(Done{Beyond: beyond}).with(p.before)
}

// resume takes over what was done before anything was read.
func (p *progress) resume(before Done) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before = before
}

func (p *progress) earlier() Done {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.before
}

// Done returns what is done. After Run that is all of it, but for what was cut.
func (d *Delivery) Done() Done { return d.progress.done() }

// Finish makes Run end with what is on its way to the sink: nothing else is begun.
func (d *Delivery) Finish() {
	d.finish()
	d.drain()
	d.work.become(abandoned)
}

// mayBegin waits until an attempt may begin, and returns when that is. After Finish none does.
func (d *Delivery) mayBegin(ctx context.Context, now time.Time) (time.Time, error) {
	for ctx.Err() == nil && d.finishing.Err() == nil && !d.may() {
		status.Sleep(ctx, 100*time.Millisecond)
		now = time.Now()
	}
	return now, cmp.Or(ctx.Err(), d.finishing.Err())
}

// HandOver has deliveries end for whoever delivers next, when they have delivered what is stored,
// taken is closed, or at limit; each is given with what is closed at its end. tell is called at
// first and at each end with what is done, which is nil where that is not known yet.
func HandOver(
	all map[*Delivery]<-chan struct{}, tell func(map[string]*Done), taken <-chan struct{}, limit time.Time,
) {
	known := make(map[string]*Done, len(all))
	ended := make(chan *Delivery, len(all))
	late, cancel := context.WithDeadline(context.Background(), limit)
	defer cancel()
	for d, done := range all {
		known[d.Cfg.Name] = nil
		d.Drain()
		go func() {
			next := taken
			for {
				select {
				case <-next:
					d.Finish()
					next = nil
					continue
				case <-done:
				case <-late.Done():
				}
				ended <- d
				return
			}
		}()
	}
	tell(maps.Clone(known))
	for range all {
		d := <-ended
		done := d.Done()
		known[d.Cfg.Name] = &done
		tell(maps.Clone(known))
	}
}
