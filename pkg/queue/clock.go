package queue

import "time"

// clock tells how long ago something was appended, whatever the machine's clock was set to since.
// Its times are in Unix nanoseconds, and never jump: while the queue is open they go on with the
// monotonic clock, from one opening to the next with what has passed since the machine was booted,
// over a boot with what the machine's clock says has passed.
type clock struct {
	began  time.Time
	at     int64 // the time then
	boot   string
	booted int64  // the time of that boot
	stored string // how far it is ahead of the machine's clock, booted, and boot
}

// start sets the clock going: by what is stored of it, and not before the last record.
func (c *clock) start(stored string, segments []*Segment) {
	boot, up := uptime()
	c.began, c.stored = time.Now(), stored
	if c.at = c.began.UnixNano(); len(stored) > 16 && stored[16:] == boot {
		c.at = int64(big.Uint64([]byte(stored[8:]))) + int64(up)
	} else if len(stored) >= 16 {
		c.at += int64(big.Uint64([]byte(stored)))
	}
	for _, s := range segments {
		c.at = max(c.at, s.lastAt)
	}
	c.boot, c.booted = boot, c.at-int64(up)
}

func (c *clock) now() int64 { return c.at + int64(time.Since(c.began)) }

// time returns a time as the machine's clock has it as it is set now. It does not follow that.
func (c *clock) time(at int64) time.Time {
	return time.Now().Add(time.Duration(at - c.now()))
}

// changes returns what is to be stored; nil: nothing.
func (c *clock) changes() []byte {
	ahead := time.Duration(c.now() - time.Now().UnixNano()).Round(time.Second)
	if value := append(appendUints(nil, uint64(ahead), uint64(c.booted)), c.boot...); string(value) != c.stored {
		return value
	}
	return nil
}
