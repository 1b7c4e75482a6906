package ledger

import "time"

const (
	// silenceAfter is how long nothing comes when the network may be holding it up, silenceOver
	// how long after that a link is taken for one that works again.
	silenceAfter = 2 * time.Second
	silenceOver  = 10 * time.Second
)

// Silence remembers the last time in which nothing came although heart-beats are usual.
type Silence struct {
	last     time.Time // what was heard last
	from, to time.Time
}

// Heard notes when something was heard last.
func (s *Silence) Heard(at time.Time) {
	if !s.last.IsZero() && at.Sub(s.last) > silenceAfter {
		s.from, s.to = s.last, at
	}
	s.last = at
}

// LastCertain returns since when something may be missing of a link that was lost, where its last
// bytes came at last. If those came soon after a silence the network may have held them up, and
// lost what was behind them.
func (s *Silence) LastCertain(last time.Time) time.Time {
	s.Heard(last)
	from := last
	if !s.to.IsZero() && last.Sub(s.to) < silenceOver {
		from = s.from
	}
	*s = Silence{}
	return from
}
