package queue

import (
	"encoding/binary"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
)

// big is the byte order of what is stored.
var big = binary.BigEndian

// clock tells how long ago something was appended, whatever the machine's clock was set to since.
// Its times are in Unix nanoseconds, and never jump: while the queue is open they go on with the
// monotonic clock, from one opening to the next with what has passed since the machine was booted,
// over a boot with what the machine's clock says has passed.
//
// Two values of the state belong to it. That of clockKey is how far it is ahead of the machine's
// clock, booted, and boot; that of rangeKey is the least and the most that it was ahead when the
// records were appended that are stored, and the last record before the machine's clock was set.
type clock struct {
	began  time.Time
	at     int64 // the time then
	boot   string
	booted int64 // the time of that boot
}

// start sets the clock going: by what is stored of it, and not before the last record.
func (c *clock) start(stored string, segments []*storage.Segment) {
	boot, now, up := uptime()
	c.began = now
	if c.at = c.began.UnixNano(); len(stored) > 16 && stored[16:] == boot {
		c.at = int64(big.Uint64([]byte(stored[8:]))) + int64(up)
	} else if len(stored) >= 16 {
		c.at += int64(big.Uint64([]byte(stored)))
	}
	for _, s := range segments {
		c.at = max(c.at, s.LastAt)
	}
	c.boot, c.booted = boot, c.at-int64(up)
}

func (c *clock) now() int64 { return c.timeOf(time.Now()) }

func (c *clock) timeOf(now time.Time) int64 { return c.at + int64(now.Sub(c.began)) }

// time returns a time as the machine's clock has it as it is set now. It does not follow that.
func (c *clock) time(at int64) time.Time {
	now := time.Now() // once: between two readings may lie any time
	return now.Add(time.Duration(at - c.timeOf(now)))
}

// changes returns what is to be stored with what is appended behind record end, given what is
// stored and the first record of that.
func (c *clock) changes(state map[string]string, first, end uint64) (ops []KeyValue) {
	now := time.Now()
	ahead := time.Duration(c.timeOf(now) - now.UnixNano()).Round(time.Second)
	value := append(appendlog.AppendUints(nil, uint64(ahead), uint64(c.booted)), c.boot...)
	if string(value) != state[clockKey] {
		ops = append(ops, KeyValue{clockKey, value})
	}
	low, high := aheadRange(state, first)
	switch {
	case state[rangeKey] == "" && end == 0:
		low, high = ahead, ahead
	case state[rangeKey] != "" && ahead >= low && ahead <= high:
		return ops
	default:
		low, high = min(low, ahead), max(high, ahead)
	}
	return append(ops, KeyValue{rangeKey, appendlog.AppendUints(nil, uint64(low), uint64(high), end)})
}

// anyAhead is more than any clock is ahead of another one.
const anyAhead = time.Duration(1 << 62)

// aheadRange returns the least and the most that the queue's clock was ahead of the machine's when
// the records were appended that are stored; first is the first of these.
func aheadRange(state map[string]string, first uint64) (low, high time.Duration) {
	now, all := state[clockKey], state[rangeKey]
	if len(now) < 16 || len(all) != 24 {
		return -anyAhead, anyAhead // a version wrote it that did not note this
	}
	if first > big.Uint64([]byte(all[16:])) {
		low = time.Duration(big.Uint64([]byte(now)))
		return low, low
	}
	return time.Duration(big.Uint64([]byte(all))), time.Duration(big.Uint64([]byte(all[8:])))
}
