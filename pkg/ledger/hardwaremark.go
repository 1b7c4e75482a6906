package ledger

import (
	"time"
)

const (
	// HardwareKnown is how many hardware messages of a console or CPC are remembered, hardwareText how much of their texts.
	HardwareKnown = 5000
)

const (
	HardwareText = 200
)

const (
	// LongestElementURI is far beyond those that HMCs have.
	LongestElementURI = 1024
)

// HardwareMark is what is known of the hardware messages of a console or CPC: each that is there, by its element URI. Beyond
// hardwareKnown the oldest are forgotten, and what is not newer than those is taken for known.
type HardwareMark struct {
	Known  map[string]KnownHardware
	Floor  int64 // the time of the latest that was forgotten, in ms; -1: none was
	Listed bool  // it was listed before, in this run or another one
}

type KnownHardware struct {
	At   int64 // ms; 0: not told
	Text string
}

// News says whether a message of a time was not seen before.
func (m *HardwareMark) News(uri string, at int64) bool {
	_, known := m.Known[uri]
	return !known && at > m.Floor
}

// Milliseconds is t as the HMC tells it; 0: it does not.
func Milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
