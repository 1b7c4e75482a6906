package queue

import "time"

// clockKey is the key of the state that the queue itself has, and shows nobody.
const clockKey = "\x00clock"

// clockSet is by how much the machine's clock differs from what is stored of it where it was set,
// at least.
const clockSet = time.Second

// clock tells how long ago something was appended, whatever the machine's clock was set to since.
// Its times are in Unix nanoseconds, and never jump. While the queue is open they go on with the
// monotonic clock; from one opening to the next with what has passed since the machine was booted;
// over a boot with what the machine's clock says has passed.
type clock struct {
	began  time.Time
	at     int64 // the time then
	is     clockState
	stored clockState
}

// clockState is what is stored of the clock, with the first group after it has changed.
type clockState struct {
	ahead  time.Duration // of the machine's clock
	booted int64         // the time at which the machine was booted
	boot   string        // which boot that was; "": not known
}

func (s clockState) value() []byte {
	return append(big.AppendUint64(big.AppendUint64(nil, uint64(s.ahead)), uint64(s.booted)), s.boot...)
}

func (s clockState) differs(t clockState) bool {
	return s.boot != t.boot || (s.ahead-t.ahead).Abs() >= clockSet || time.Duration(s.booted-t.booted).Abs() >= clockSet
}

// start sets the clock going: by what is stored of it, and not before the last record.
func (c *clock) start(stored string, last int64) {
	if len(stored) >= 16 {
		c.stored = clockState{
			time.Duration(big.Uint64([]byte(stored))), int64(big.Uint64([]byte(stored[8:]))), stored[16:],
		}
	}
	boot, up := uptime()
	c.began = time.Now()
	if c.at = c.began.Add(c.stored.ahead).UnixNano(); boot != "" && boot == c.stored.boot {
		c.at = c.stored.booted + int64(up)
	}
	c.at = max(c.at, last)
	c.is.boot, c.is.booted = boot, c.at-int64(up)
}

func (c *clock) now() int64 { return c.at + int64(time.Since(c.began)) }

// of returns a time of the machine's clock as this one has it.
func (c *clock) of(t time.Time) int64 { return c.now() - int64(time.Since(t)) }

// time returns a time as the machine's clock has it as it is set now. It does not follow that.
func (c *clock) time(at int64) time.Time {
	now := time.Now()
	return now.Add(time.Duration(at-c.at) - now.Sub(c.began))
}

// state returns what is to be stored of the clock, if that is not what is stored.
func (c *clock) state() (s clockState, differs bool) {
	now := time.Now()
	c.is.ahead = time.Duration(c.at - now.UnixNano() + int64(now.Sub(c.began)))
	return c.is, c.is.differs(c.stored)
}
