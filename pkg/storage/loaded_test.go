package storage

import (
	"slices"
	"testing"
)

// How far the sequence went is known by the positions, too: what the segments lack is lost, and the numbers
// that a start has left out for that reason are not lost once more by the next one.
func TestEnd(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		stored, saved, end uint64
		lost               []Span
	}{
		{stored: 7, saved: 5, end: 7},
		{stored: 7, saved: 7, end: 7},
		{stored: 7, saved: 9, end: 9 + DamageGap, lost: []Span{{8, 9}}},
		{stored: 7, saved: 9 + DamageGap, end: 9 + DamageGap},
		{stored: 0, saved: DamageGap, end: DamageGap},
	} {
		l := NewLoaded()
		if test.stored > 0 {
			s := Segment{Base: 1, Last: test.stored}
			if _, _, err := l.Segment(s.Summary(), 0); err != nil {
				t.Fatal(err)
			}
		}
		saved := &Checkpoint{End: test.saved}
		if err := l.Positions(saved.Encode(), nil); err != nil || l.End != test.end || !slices.Equal(l.Lost, test.lost) {
			t.Errorf("%d are stored, %d by the positions: the end is %d, lost are %v, %v", test.stored, test.saved, l.End, l.Lost, err)
		}
	}
}
