package ledger

import (
	"encoding/binary"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

const contactPrefix = "last/" // HMC

// Contact is the Book of when there was contact with an HMC last, up to when everything it sent is
// recorded.
type Contact struct {
	key     string
	at      time.Time
	cause   string // why there was none after that, where it is known
	changed bool
}

// NewContact returns the book of an HMC.
func NewContact(hmc string) *Contact { return &Contact{key: contactPrefix + hmc} }

// Load implements Book.
func (c *Contact) Load(stored Stored) (damaged int) {
	c.at, c.cause, c.changed = time.Time{}, "", false
	stored(c.key, func(key string, value []byte) bool {
		switch {
		case key != c.key: // another HMC, whose name begins with this one's
		case len(value) < 8:
			damaged++
		default:
			c.at, c.cause = time.Unix(0, int64(binary.BigEndian.Uint64(value))), string(value[8:])
		}
		return true
	})
	return damaged
}

// Anchor makes the time that was loaded one of the clock that now was read from.
func (c *Contact) Anchor(now time.Time) {
	if !c.at.IsZero() {
		c.at = event.Anchored(c.at, now)
	}
}

// Last returns when there was contact last; the zero time: never. cause is "" where it is not known
// why there was none after that.
func (c *Contact) Last() (at time.Time, cause string) { return c.at, c.cause }

// Set notes when there was contact last.
func (c *Contact) Set(at time.Time, cause string) { c.at, c.cause, c.changed = at, cause, true }

// Changes implements Book.
func (c *Contact) Changes(dst []queue.KeyValue) []queue.KeyValue {
	if !c.changed || c.at.IsZero() {
		return dst
	}
	c.changed = false
	return append(dst, queue.KeyValue{
		Key: c.key, Value: append(binary.BigEndian.AppendUint64(nil, uint64(c.at.UnixNano())), c.cause...),
	})
}
