package deliver

import (
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// Waiting says what is stored for the sink, and how many seconds ago the oldest of it was.
func (d *Delivery) Waiting() (events, bytes int64, age float64) { return WaitingBehind(d.Cursor) }

func WaitingBehind(cursor *queue.Cursor) (events, bytes int64, age float64) {
	events, bytes, oldest := cursor.Pending()
	if events > 0 && !oldest.IsZero() {
		age = max(0, time.Since(oldest).Seconds())
	}
	return events, bytes, age
}

func (d *Delivery) Snapshot() status.SinkStatus {
	waiting, bytes, age := d.Waiting()
	s := status.SinkStatus{Name: d.Cfg.Name, Kind: d.Cfg.Kind(), QueueEvents: waiting, QueueBytes: bytes, OldestEventAgeSeconds: age, DeadLetters: d.dead.Count(d.Cfg.Name)}
	s.Delivered, s.Filtered, s.Dropped = d.Metrics.Delivered.N.Load(), d.Metrics.filtered.N.Load(), d.Metrics.dropped.N.Load()
	s.Stuck = d.Health.stuck(time.Now())
	d.Health.Mu.Lock()
	defer d.Health.Mu.Unlock()
	s.FailingSince = status.TimeOrNil(d.Health.failingSince)
	s.FailedAttempts = d.Health.total
	s.LastError, s.LastErrorTime = d.Health.lastError, status.TimeOrNil(d.Health.lastErrorAt)
	s.LastSuccess = status.TimeOrNil(d.Health.lastSuccess)
	s.DeliveredPerMinute = d.Rate.List(time.Now(), s.Delivered)
	s.Troubles = s.FindTroubles()
	return s
}
