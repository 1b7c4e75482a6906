package queue

import "time"

// clockKey is the key of the state that the queue itself has.
const clockKey = "queue/clock"

// clockSet is by how much the machine's clock differs from what is stored of it where it was set,
// at least.
const clockSet = time.Second

// clock tells how long ago something was appended, whatever the machine's clock was set to since.
// Its times are in Unix nanoseconds, and never jump: while the queue is open they go on with the
// monotonic clock, and after that where they were, later by what the machine's clock says has
// passed. How far it is ahead of that is stored with the first group after it was set.
type clock struct {
	began time.Time
	at    int64         // the time then
	ahead time.Duration // of the machine's clock, as it is stored
}

// start sets the clock going: by what is stored of it, and not before the last record.
func (c *clock) start(stored string, last int64) {
	c.ahead = 0
	if len(stored) == 8 {
		c.ahead = time.Duration(big.Uint64([]byte(stored)))
	}
	c.began = time.Now()
	c.at = max(c.began.Add(c.ahead).UnixNano(), last)
}

func (c *clock) now() int64 { return c.at + int64(time.Since(c.began)) }

// of returns a time of the machine's clock as this one has it.
func (c *clock) of(t time.Time) int64 { return c.now() - int64(time.Since(t)) }

// time returns a time as the machine's clock has it as it is set now. It does not follow that.
func (c *clock) time(at int64) time.Time {
	now := time.Now()
	return now.Add(time.Duration(at-c.at) - now.Sub(c.began))
}

// isSet returns how far the clock is ahead of the machine's now, and whether that is to be stored.
func (c *clock) isSet() (ahead time.Duration, differs bool) {
	now := time.Now()
	ahead = time.Duration(c.at - now.UnixNano() + int64(now.Sub(c.began)))
	return ahead, (ahead - c.ahead).Abs() >= clockSet
}
