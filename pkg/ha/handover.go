package ha

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cluster"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
)

// handOver is how a term begins where another one has ended in order, and ends so itself. Whoever
// leads next has the links as soon as nothing is stored here any more. To a sink it brings nothing
// before it knows what has become of what was on its way.
type handOver struct {
	log   *zap.Logger
	life  context.Context //nolint:containedctx // of the term
	lease *cluster.Term
	store *cluster.Store
	led   time.Time // since
	taken chan struct{}

	mu sync.Mutex
	// since when another one may lead
	over time.Time
	// sinks that go on where the one before has ended
	resumed map[string]bool
}

// valid says whether something may be delivered.
func (o *handOver) valid() bool {
	o.mu.Lock()
	over := o.over
	o.mu.Unlock()
	return o.lease.Valid() || !over.IsZero() && time.Since(over) < handOverLimit
}

// resume waits until it is known what the leader before has brought to a sink.
func (o *handOver) resume(ctx context.Context, sink string) (done deliver.Done) {
	o.mu.Lock()
	again := o.resumed[sink]
	o.mu.Unlock()
	if again { // a sink of that name that was added since
		return done
	}
	limit, cancel := context.WithDeadline(ctx, o.led.Add(resumeLimit))
	defer cancel()
	err := o.lease.Follow(limit, func(text []byte) bool {
		var known map[string]*deliver.Done
		if json.Unmarshal(text, &known) != nil {
			return true
		}
		d, its := known[sink]
		if d != nil {
			done = *d
		}
		return d != nil || !its
	})
	if err != nil && ctx.Err() == nil {
		o.log.Warn("the daemon that led before has not said what it has delivered: some may be sent again",
			zap.String("sink", sink), zap.Error(err))
	}
	if ctx.Err() == nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.resumed == nil {
			o.resumed = make(map[string]bool)
		}
		o.resumed[sink] = true
	}
	return done
}

// tell lets another daemon lead, and tells it what is done of each sink. One after the other.
func (o *handOver) tell(done map[string]*deliver.Done) {
	o.mu.Lock()
	first := o.over.IsZero()
	o.mu.Unlock()
	if first && !o.begin() {
		return
	}
	ctx, cancel := context.WithTimeout(o.life, releaseTimeout)
	defer cancel()
	text, err := json.Marshal(done)
	if err == nil {
		err = o.lease.HandOver(ctx, text)
	}
	if err != nil {
		o.log.Warn("what was delivered could not be told to the next leader: some may be sent again", zap.Error(err))
	}
	if first {
		go func() {
			if o.lease.Taken(o.life) == nil {
				close(o.taken)
			}
		}()
	}
}

// begin reports whether there is something to hand over: another daemon may lead already.
func (o *handOver) begin() bool {
	o.store.Ending()
	select {
	case <-o.lease.Lost():
		select {
		case <-o.taken:
		default:
			close(o.taken)
		}
		return false
	default:
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = time.Now()
	return true
}
