package watch

import (
	"cmp"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/budget"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logon"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/probe"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
)

// Options are what a Supervisor needs. HMC, Queue, Metrics and Logger are required.
type Options struct {
	HMC config.HMC
	// takes the events
	Queue   *queue.Queue
	Group   *record.Group
	Metrics *record.Metrics
	Logger  *zap.Logger
	// of the daemon, as the HMC sees it
	Version string
	// SessionNotes is where sessions are noted until their logoff: see hmc.Options.
	SessionNotes string
	// Handover is how many bytes of notifications may wait to be recorded; 0: the receiver's
	// default. Beyond that it is the Budget of all HMCs.
	Handover  int
	Budget    *budget.Budget
	Intervals Intervals
	// Dial connects to the HMC; nil: net.Dialer.
	Dial Dial
	Tap  Tap
	// After is that of record.Options.
	After string
}

// Tap sees what goes to and comes from an HMC. Each of them may be nil; none may block.
type Tap struct {
	Exchange func(hmc.Exchange)
	Traffic  func(receiver.Traffic)
	// Failed is told of each attempt to get a link that has failed, and why, as
	// receiver_connect_failures_total has it.
	Failed func(at time.Time, reason string)
}

// Dial makes a network connection, as net.Dialer.DialContext does.
type Dial = logon.Dial

// Intervals are what a Supervisor waits for. One that is 0 is the usual one; tests shorten them.
type Intervals struct {
	Recording record.Timing
	// AuthHold comes after a refused logon: an HMC disables a userid that keeps trying.
	AuthHold time.Duration
	// Files is how often it is seen whether the files that the configuration names have changed,
	// while a pause lasts.
	Files time.Duration
	// StableAfter is how long a link must have been up for the pauses between attempts to start
	// over.
	StableAfter time.Duration
	// Ping is the time between calls that keep the session alive and notice a dead HMC.
	Ping time.Duration
	// ChannelMin is the first wait before an OS message channel, or whatever else the HMC
	// refused, is tried again, ChannelMax the longest. ChannelSoon is the first one after a
	// change of the partition's status, ChannelRest the longest one where the partition offers
	// no messages: then its next status change is the time.
	ChannelMin, ChannelMax, ChannelSoon, ChannelRest time.Duration
	// Relist is the least time between two lists of the estate.
	Relist time.Duration
	// Hardware is how often hardware messages are listed while there are any.
	Hardware time.Duration
	Probe    probe.Intervals
}

// withDefaults returns the intervals with those that are 0 set.
func (i Intervals) withDefaults() Intervals {
	set := func(d *time.Duration, usual time.Duration) { *d = cmp.Or(*d, usual) }
	set(&i.Recording.Tick, 500*time.Millisecond)
	set(&i.Recording.Settle, 2*time.Second)
	set(&i.Recording.SeenEvery, 30*time.Second)
	set(&i.AuthHold, 30*time.Minute)
	set(&i.Files, 2*time.Second)
	set(&i.StableAfter, 30*time.Second)
	set(&i.Ping, time.Minute)
	set(&i.ChannelMin, 15*time.Second)
	set(&i.ChannelMax, 10*time.Minute)
	set(&i.ChannelSoon, 2*time.Second)
	set(&i.ChannelRest, 6*time.Hour)
	set(&i.Relist, 10*time.Second)
	set(&i.Hardware, 5*time.Minute)
	return i
}
