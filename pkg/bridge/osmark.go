package bridge

import (
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// osMessage is what tells one message of an operating system from the others of its partition.
type osMessage struct {
	seq  int64   // assigned by the HMC
	key  [8]byte // hash of the number and the text
	time int64   // in milliseconds, as the operating system gave it; 0 or less: it gave none
}

// verdict says what an OS message is.
type verdict struct {
	duplicate bool
	restarted bool   // it is the first one seen of a sequence that started anew
	epoch     uint32 // which of the partition's sequences it belongs to; part of its event id if not 0
	missing   int64  // how many numbers before it were skipped
}

// replayed is what the HMC sent again: refresh messages, or an answer of List OS Messages.
type replayed struct {
	messages []osMessage // oldest first
	// next is the live message that came behind it and is given to live after it; nil: none came. It is evidence only.
	next *osMessage
	// asked is when the SUBSCRIBE or the request was sent: what was received later proves nothing by being absent.
	asked time.Time
	now   time.Time
	// whole says that this is all that the HMC holds of the partition: no part of a range, and not cut short.
	whole bool
}

// partitionMark is what is known of the OS messages of one partition. The zero value knows nothing.
type partitionMark struct {
	seq   int64
	known bool
}

// live judges a message that came as new, and records it.
func (m *partitionMark) live(msg osMessage, now time.Time) verdict {
	m.seq, m.known = msg.seq, true
	_ = now
	return verdict{}
}

// replay judges messages that the HMC sent again, and records those that are new. The result has one verdict for each.
func (m *partitionMark) replay(r replayed) []verdict {
	out := make([]verdict, len(r.messages))
	for i, msg := range r.messages {
		out[i] = m.live(msg, r.now)
	}
	return out
}

// empty says that no message of the partition was ever recorded.
func (m *partitionMark) empty() bool { return !m.known }

// last returns the highest number of the present sequence.
func (m *partitionMark) last() (seq int64, ok bool) { return m.seq, m.known }

// missing returns the range from the lowest to the highest number that was skipped and is worth asking the HMC for, and how
// many numbers in it are missing; 0: none.
func (m *partitionMark) missing() (from, to, n int64) { return 0, 0, 0 }

// settle notes that the HMC was asked for all that is missing up to the number to, and that its answer was given to replay.
// It returns how many are missing still: the HMC has them no more, and they are not reported again.
func (m *partitionMark) settle(to int64) (n int64) { return 0 }

// abandoned returns how many missing numbers, since it was called last, can no longer be asked for: the sequence started
// anew, or too many gaps came together.
func (m *partitionMark) abandoned() int64 { return 0 }

// forget takes messages back whose commit failed: they were never seen, and are missing. Everything appendState returned
// with them is returned by it again.
func (m *partitionMark) forget(msgs []osMessage) {}

// dirty says that appendState has something to return.
func (m *partitionMark) dirty() bool { return false }

// appendState appends what is to be stored since the last call. key begins every key of the partition: prefix and partition.
func (m *partitionMark) appendState(to []queue.KeyValue, key string) []queue.KeyValue { return to }

// loadPartitionMarks reads what appendState returned for the partitions whose keys begin with prefix. stateRange is that of
// the queue. damaged is how many values could not be read: what they told is not known.
func loadPartitionMarks(prefix string, stateRange func(prefix string, fn func(key string, value []byte) bool)) (marks map[string]*partitionMark, damaged int) {
	return make(map[string]*partitionMark), 0
}
