package ledger

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

const (
	// HMC, NUL, URI of the console or CPC; NUL and element URI where it is about one message.
	hardwarePrefix = "hw/"
	// HardwareKnown is how many hardware messages of a console or CPC are remembered.
	HardwareKnown = 5000
	// HardwareText is how much of their texts is remembered, in bytes.
	HardwareText = 200
	// longestElementURI is far beyond those that HMCs have.
	longestElementURI = 1024
)

// Hardware is the Book of the hardware messages of a console and of CPCs: each that is there, by
// its element URI. Beyond HardwareKnown of a console or CPC the oldest are forgotten, and what is
// not newer than those is taken for known.
type Hardware struct {
	prefix  string
	parents map[string]*hardwareOf // by the URI of the console or CPC
	changed map[string]struct{}    // keys, without the prefix
}

// hardwareOf is what is known of one console or CPC.
type hardwareOf struct {
	known  map[string]HardwareMessage
	floor  int64 // the time of the latest that was forgotten, in milliseconds; -1: none was
	listed bool  // before, in this run or another one
}

// HardwareMessage is what is remembered of a message.
type HardwareMessage struct {
	At   int64 // in milliseconds; 0: not told
	Text string
}

// NewHardware returns the book of an HMC.
func NewHardware(hmc string) *Hardware {
	return &Hardware{
		prefix: hardwarePrefix + hmc + "\x00", parents: make(map[string]*hardwareOf),
		changed: make(map[string]struct{}),
	}
}

func (h *Hardware) of(parent string) *hardwareOf {
	p := h.parents[parent]
	if p == nil {
		p = &hardwareOf{known: make(map[string]HardwareMessage), floor: -1}
		h.parents[parent] = p
	}
	return p
}

// Load implements Book.
func (h *Hardware) Load(stored Stored) (damaged int) {
	clear(h.parents)
	clear(h.changed)
	stored(h.prefix, func(key string, value []byte) bool {
		if len(value) < 8 {
			damaged++
			return true
		}
		parent, uri, one := strings.Cut(key[len(h.prefix):], "\x00")
		n := int64(binary.BigEndian.Uint64(value))
		if p := h.of(parent); one {
			p.known[uri] = HardwareMessage{At: n, Text: string(value[8:])}
		} else {
			p.floor, p.listed = n, true
		}
		return true
	})
	return damaged
}

// Parents returns the URIs of the consoles and CPCs that something is known of.
func (h *Hardware) Parents() []string { return slices.Sorted(maps.Keys(h.parents)) }

// Listed reports whether the messages of a console or CPC were ever listed.
func (h *Hardware) Listed(parent string) bool { return h.of(parent).listed }

// IsNew reports whether a message is not known.
func (h *Hardware) IsNew(parent, uri string, at time.Time) bool {
	p := h.of(parent)
	_, known := p.known[uri]
	return !known && uri != "" && len(uri) <= longestElementURI && !strings.Contains(uri, "\x00") &&
		milliseconds(at) > p.floor
}

// Gone returns the known messages that a complete list does not have.
func (h *Hardware) Gone(parent string, listed map[string]bool) (uris []string) {
	for _, uri := range slices.Sorted(maps.Keys(h.of(parent).known)) {
		if !listed[uri] {
			uris = append(uris, uri)
		}
	}
	return uris
}

// Get returns what is remembered of a message.
func (h *Hardware) Get(parent, uri string) (m HardwareMessage, known bool) {
	m, known = h.of(parent).known[uri]
	return m, known
}

// Add notes a message.
func (h *Hardware) Add(parent, uri string, at time.Time, text string) {
	h.of(parent).known[uri] = HardwareMessage{At: milliseconds(at), Text: event.Beginning(text, HardwareText)}
	h.changed[parent+"\x00"+uri] = struct{}{}
}

// Remove forgets a message.
func (h *Hardware) Remove(parent, uri string) {
	delete(h.of(parent).known, uri)
	h.changed[parent+"\x00"+uri] = struct{}{}
}

// Complete notes that the messages of a console or CPC were listed, and keeps the number of those
// that are known within its limit. It returns that number.
func (h *Hardware) Complete(parent string) (known int) {
	p := h.of(parent)
	if !p.listed {
		p.listed = true
		h.changed[parent] = struct{}{}
	}
	if excess := len(p.known) - HardwareKnown; excess > 0 {
		oldest := slices.SortedFunc(maps.Keys(p.known), func(a, b string) int {
			return cmp.Or(cmp.Compare(p.known[a].At, p.known[b].At), cmp.Compare(a, b))
		})[:excess]
		p.floor = max(p.floor, p.known[oldest[excess-1]].At)
		h.changed[parent] = struct{}{}
		for _, uri := range oldest {
			h.Remove(parent, uri)
		}
	}
	return len(p.known)
}

// Changes implements Book.
func (h *Hardware) Changes(dst []queue.KeyValue) []queue.KeyValue {
	for key := range h.changed {
		parent, uri, one := strings.Cut(key, "\x00")
		kv := queue.KeyValue{Key: h.prefix + key}
		if m, known := h.Get(parent, uri); one && known {
			kv.Value = append(binary.BigEndian.AppendUint64(nil, uint64(m.At)), m.Text...)
		} else if !one {
			kv.Value = binary.BigEndian.AppendUint64(nil, uint64(h.of(parent).floor))
		}
		dst = append(dst, kv)
	}
	clear(h.changed)
	return dst
}

// milliseconds is t as the HMC tells it; 0: it does not.
func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
