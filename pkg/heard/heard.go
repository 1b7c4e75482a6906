// Package heard keeps what a daemon has heard of an HMC while another one records it: what it has
// not seen recorded is to be recorded when that one has died.
package heard

import (
	"slices"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

const (
	// aheadBy is how much earlier something may be seen recorded than it is heard, and maxAhead how
	// much of that is remembered.
	aheadBy  = 5 * time.Second
	maxAhead = 10_000
)

// Log is what was heard and not seen recorded. Both times are its own, so that no two clocks are
// compared. What says the same is matched in order: an HMC says each thing once in each session, so
// what was heard twice has happened twice. Safe for concurrent use.
type Log struct {
	keep     time.Duration
	maxBytes int

	mu      sync.Mutex
	list    []*entry // in order
	bytes   int
	waiting map[event.ID][]*entry
	// what was seen recorded and not heard yet
	ahead map[event.ID]int
	early []early // in order
	// since is from when on all that the HMC has said is known; the zero time: it is not heard.
	since time.Time
	note  translate.Notification // of what was recorded
}

// Notification is one that was heard.
type Notification struct {
	receiver.Notification
	// Valid says that its body is JSON.
	Valid bool
}

type entry struct {
	Notification
	key   event.ID
	at    time.Time
	bytes int
	done  bool // it is recorded, or was heard too long ago
}

type early struct {
	key event.ID
	at  time.Time
}

// NewLog returns one that keeps what it has for a time, and no more than so many bytes.
func NewLog(keep time.Duration, maxBytes int) *Log {
	return &Log{keep: keep, maxBytes: maxBytes, waiting: make(map[event.ID][]*entry), ahead: make(map[event.ID]int)}
}

// Begin notes that the HMC is heard from now on.
func (l *Log) Begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = time.Now()
}

// Missed notes that something came and was not heard.
func (l *Log) Missed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.since.IsZero() {
		l.since = time.Now()
	}
}

// Unsure notes that it was not seen what was recorded for a while: what was heard until now may be
// recorded or not.
func (l *Log) Unsure() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
	if !l.since.IsZero() {
		l.since = time.Now()
	}
}

// Lost notes that the HMC is not heard any more.
func (l *Log) Lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = time.Time{}
}

// Since returns from when on everything that was not recorded is known; the zero time: from never.
func (l *Log) Since() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.since
}

// Hear notes a notification; says is what it says, the zero ID where nobody can be seen to record
// that.
func (l *Log) Hear(n Notification, says event.ID) {
	e := &entry{Notification: n, key: says, at: time.Now(), bytes: len(n.Body)}
	for _, h := range n.Headers {
		e.bytes += len(h.Name) + len(h.Value)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(e.at)
	if l.ahead[says] > 0 {
		l.forget(slices.IndexFunc(l.early, func(o early) bool { return o.key == says }))
		return
	}
	l.list, l.bytes = append(l.list, e), l.bytes+e.bytes
	if says != (event.ID{}) {
		l.waiting[says] = append(l.waiting[says], e)
	}
	for l.bytes > l.maxBytes {
		l.drop()
	}
}

// Recorded notes that another daemon has recorded an event.
func (l *Log) Recorded(e *event.Event) {
	if e.Origin != event.OriginLive && e.Origin != event.OriginReconcile {
		return
	}
	from := receiver.Notification{Topic: e.Topic, Body: e.Body, Headers: make(receiver.Headers, len(e.Headers))}
	for i, h := range e.Headers {
		from.Headers[i] = receiver.Header(h)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note.Parse(&from, true)
	says, now := l.note.Told(), time.Now()
	l.expire(now)
	switch list := l.waiting[says]; {
	case len(list) > 0:
		l.settle(list[0])
	case e.Repeat: // perhaps it is told once more because the HMC was asked why
	case says != (event.ID{}) && !l.since.IsZero():
		l.ahead[says]++
		l.early = append(l.early, early{says, now})
	}
}

// settle forgets what is in an entry; its place in the list goes when it is the first. Of those
// that say the same it is the first.
func (l *Log) settle(e *entry) {
	l.bytes -= e.bytes
	if list := l.waiting[e.key]; len(list) > 1 {
		l.waiting[e.key] = list[1:]
	} else {
		delete(l.waiting, e.key)
	}
	*e = entry{done: true}
}

// drop forgets the first one. Whether it was recorded nobody knows then, but for what has an id of
// its own.
func (l *Log) drop() {
	e := l.list[0]
	l.list[0], l.list = nil, l.list[1:]
	if !e.done {
		if e.key != (event.ID{}) && e.at.After(l.since) && !l.since.IsZero() {
			l.since = e.at
		}
		l.settle(e)
	}
}

// forget forgets something that was seen recorded ahead.
func (l *Log) forget(i int) {
	key := l.early[i].key
	if i == 0 { // mostly
		l.early = l.early[1:]
	} else {
		l.early = slices.Delete(l.early, i, i+1)
	}
	if l.ahead[key]--; l.ahead[key] == 0 {
		delete(l.ahead, key)
	}
}

// expire forgets what is too old.
func (l *Log) expire(now time.Time) {
	for len(l.list) > 0 && (l.list[0].done || now.Sub(l.list[0].at) > l.keep) {
		l.drop()
	}
	for len(l.early) > 0 && (now.Sub(l.early[0].at) > aheadBy || len(l.early) > maxAhead) {
		l.forget(0)
	}
}

// Unrecorded returns what was not seen recorded, in the order in which it was heard, and forgets
// it.
func (l *Log) Unrecorded() (all []Notification) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(time.Now())
	for _, e := range l.list {
		if !e.done {
			all = append(all, e.Notification)
		}
	}
	l.clear()
	return all
}

func (l *Log) clear() {
	l.list, l.bytes = nil, 0
	clear(l.waiting)
}
