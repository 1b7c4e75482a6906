package hmcsim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"
)

// FloodOptions say what Broker.Flood sends.
type FloodOptions struct {
	Topic    string
	Frames   int64     // how many MESSAGE frames for each subscription of the topic
	Messages []Message // what is sent, over and over; nil: FloodMessages
}

const (
	// floodBase is where the numbers of a flood begin: all have the same number of digits, so
	// that a block of frames that is encoded once can have its numbers changed in place.
	floodBase = 1_000_000_000
	// floodRound is the same for what counts the rounds through the messages.
	floodRound = 2_000_000_000

	// FloodNumber becomes the number of the frame in the body of a flood's message.
	FloodNumber = "1000000000"
	// FloodSequence becomes how often the message was sent, as the messages of an operating
	// system are numbered.
	FloodSequence = "2000000000"
)

// floodBlock is about how many bytes are written at once.
const floodBlock = 128 << 10

// Flood sends frames to the present subscriptions of a topic as fast as each is read, and returns
// how many it wrote to all of them together. The frames are encoded before the first is sent:
// besides TLS, the sender costs next to nothing. Each frame has a message-id, session-sequence-nr
// (from 0 on plus 1,000,000,000) and global-sequence-nr of its own. It ends when all is written, a
// connection ends, or ctx is done. What is published meanwhile comes between.
func (b *Broker) Flood(ctx context.Context, opts FloodOptions) (int64, error) {
	if opts.Messages == nil {
		opts.Messages = FloodMessages()
	}
	if opts.Frames <= 0 || opts.Frames > floodBase {
		return 0, fmt.Errorf("hmcsim: flood: %d frames", opts.Frames)
	}
	b.mu.Lock()
	t := b.topics[opts.Topic]
	if t == nil || len(t.subs) == 0 {
		b.mu.Unlock()
		return 0, fmt.Errorf("hmcsim: flood: topic %q has no subscription", opts.Topic)
	}
	var sources []*floodSource
	for _, s := range t.subs {
		src := newFloodSource(b, t, s, opts)
		s.link.mu.Lock()
		busy := s.link.flood != nil
		if !busy && !s.link.ended {
			s.link.flood = src
			s.link.wakeLocked()
		}
		s.link.mu.Unlock()
		if busy {
			b.mu.Unlock()
			return 0, errors.New("hmcsim: flood: a connection has one already")
		}
		sources = append(sources, src)
	}
	t.seq += opts.Frames
	b.mu.Unlock()

	var err error
	for _, src := range sources {
		select {
		case <-src.done:
		case <-src.link.done:
			err = errors.New("hmcsim: flood: the connection ended")
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	var sent int64
	for _, src := range sources {
		src.link.mu.Lock()
		if src.link.flood == src {
			src.link.flood = nil
		}
		src.link.mu.Unlock()
		sent += src.sent.Load()
	}
	return sent, err
}

// floodSource is the flood of one subscription. Only the link's writer uses it after
// newFloodSource.
type floodSource struct {
	link  *link
	block []byte
	ends  []int       // where each frame of the block ends
	spots []floodSpot // where each number of the block begins; each has ten digits
	round int64       // messages of a round
	next  int64       // number of the next frame
	left  int64
	sent  atomic.Int64
	done  chan struct{}
}

// floodSpot is a number in a block.
type floodSpot struct {
	at    int
	frame int  // of the block
	round bool // it counts rounds, not frames
}

func newFloodSource(b *Broker, t *topic, s *subscription, opts FloodOptions) *floodSource {
	src := &floodSource{
		link: s.link, left: opts.Frames, next: floodBase, round: int64(len(opts.Messages)),
		done: make(chan struct{}),
	}
	escape := s.link.escapes()
	mark := strconv.Itoa(floodBase)
	now := strconv.FormatInt(time.Now().UnixMilli(), 10)
	// Whole rounds of the messages, so that the round goes on where the block begins again.
	for len(src.block) < floodBlock && int64(len(src.ends)) < opts.Frames {
		for _, m := range opts.Messages {
			p := append(src.block, "MESSAGE\n"...)
			p = appendHeader(p, "destination", "/topic/"+t.name, escape)
			p = append(p, s.line...)
			id := b.messageID(t.producer, 0)
			p = appendHeader(p, "message-id", id[:len(id)-1]+mark, escape)
			frame := len(src.ends)
			spots := []floodSpot{{at: len(p) - 1 - len(mark), frame: frame}}
			p = appendHeader(p, "expires", "0", escape)
			p = appendHeader(p, "priority", "4", escape)
			p = appendHeader(p, "timestamp", now, escape)
			for _, name := range []string{"global-sequence-nr", "session-sequence-nr"} {
				p = appendHeader(p, name, mark, escape)
				spots = append(spots, floodSpot{at: len(p) - 1 - len(mark), frame: frame})
			}
			for _, h := range m.Headers {
				if h.Name != "global-sequence-nr" && h.Name != "session-sequence-nr" {
					p = appendHeader(p, h.Name, h.Value, escape)
				}
			}
			p = append(p, '\n')
			spots = append(spots, spotsIn(m.Body, len(p), frame)...)
			p = append(p, m.Body...)
			p = append(p, 0, '\n')
			src.block = p
			src.ends = append(src.ends, len(p))
			src.spots = append(src.spots, spots...)
		}
	}
	return src
}

// spotsIn returns where the numbers of a body are that begins at an offset.
func spotsIn(body []byte, offset, frame int) (spots []floodSpot) {
	for _, mark := range []string{FloodNumber, FloodSequence} {
		for from := 0; ; {
			i := bytes.Index(body[from:], []byte(mark))
			if i < 0 {
				break
			}
			spots = append(spots, floodSpot{at: offset + from + i, frame: frame, round: mark == FloodSequence})
			from += i + len(mark)
		}
	}
	return spots
}

// writeBlock writes the next block of frames.
func (src *floodSource) writeBlock(l *link) error {
	n := int(min(int64(len(src.ends)), src.left))
	var digits [10]byte
	for _, spot := range src.spots {
		if spot.frame >= n {
			break
		}
		number := src.next + int64(spot.frame)
		if spot.round {
			number = floodRound + (number-floodBase)/src.round
		}
		copy(src.block[spot.at:], strconv.AppendInt(digits[:0], number, 10))
	}
	if n > 0 {
		if _, err := l.conn.Write(src.block[:src.ends[n-1]]); err != nil {
			return err
		}
	}
	src.next += int64(n)
	src.left -= int64(n)
	src.sent.Add(int64(n))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.stats.delivered.Add(int64(n))
	l.countMessagesLocked(int64(n))
	if src.left == 0 {
		l.flood = nil
		close(src.done)
	}
	return nil
}

// FloodMessages returns realistic notifications of the four types that come in masses, of many
// partitions. In a flood each is another one, as those of an HMC are: the messages of each
// partition have consecutive numbers, and log entries other times.
func FloodMessages() []Message {
	var messages []Message
	for i := range 32 {
		p := fmt.Sprintf("e12121da-c503-3117-8e79-c46bd35%05x", i)
		name := fmt.Sprintf("PART%d", i+1)
		object := []Header{
			{"class", "partition"}, {"name", name}, {"object-id", p}, {"object-uri", "/api/partitions/" + p},
		}
		with := func(h ...Header) []Header { return append(h, object...) }
		messages = append(messages,
			Message{
				with(Header{"notification-type", "status-change"}),
				[]byte(
					`{"change-reports":[{"old-status":"active","old-additional-status":null,` +
						`"new-status":"degraded","new-additional-status":null}]}`,
				),
			},
			Message{
				with(Header{"notification-type", "os-message"}),
				fmt.Appendf(
					nil,
					`{"os-messages":[{"sequence-number":2000000000,"message-id":"0",`+
						`"message-text":"[ %5d.123456] systemd[1]: Started Session 2000000000 of user root.\n",`+
						`"os-name":null,"timestamp":-1,"sound-alarm":false,"is-priority":false,`+
						`"is-held":false,"is-refresh":false,"prompt-text":""}]}`,
					i,
				),
			},
			Message{
				with(
					Header{"notification-type", "property-change"},
					Header{"property-names", " ifl-processors description "},
				),
				[]byte(
					`{"change-reports":[{"property-name":"description","old-value":"a",` +
						`"new-value":"b"},{"property-name":"ifl-processors","old-value":2,"new-value":3}]}`,
				),
			},
			Message{
				[]Header{{"notification-type", "log-entry"}},
				fmt.Appendf(
					nil,
					`{"log-entries":[{"event-time":1000000000000,"event-id":"1941",`+
						`"event-name":"WebServicesLogon",`+
						`"event-message":"User zbcInstall has logged on to Web Services API session `+
						`Sx9feb3000-e9e7-11e9-bf4a-00106f237ab1.%x from location 10.1.1.1",`+
						`"userid":"zbcInstall",`+
						`"user-uri":"/api/users/1c11f0e2-7b7a-11e9-9d5e-00106f237ab1",`+
						`"event-data-items":[{"data-item-number":0,"data-item-type":"string",`+
						`"data-item-value":"zbcInstall"},{"data-item-number":2,"data-item-type":"string",`+
						`"data-item-value":"10.1.1.1"}],"event-details":[]}]}`,
					i,
				),
			},
		)
	}
	return messages
}
