package ledger

import (
	"testing"
	"time"
)

// The last bytes of a link that is lost may have been held up by the network: then the gap begins before that.
func TestGapBeginsBeforeASilence(t *testing.T) {
	at := func(seconds float64) time.Time { return time.UnixMilli(1_700_000_000_000 + int64(1000*seconds)) }
	for _, test := range []struct {
		name  string
		heard []float64
		last  float64
		want  float64
	}{
		{"busy until the end", []float64{0, 0.5, 1, 1.5, 2}, 2.2, 2.2},
		{"silent, then late bytes, then the end", []float64{0, 0.5, 1, 6}, 6.1, 1},
		{"the bytes came between two looks", []float64{0, 0.5, 1}, 6, 1},
		{"silent to the end", []float64{0, 0.5, 1, 1, 1}, 1, 1},
		{"a silence long ago", []float64{0, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, 16.5, 16.5},
		{"heart-beats only", []float64{0, 5, 10}, 15, 10},
	} {
		var s Silence
		for _, h := range test.heard {
			s.Heard(at(h))
		}
		if got := s.LastCertain(at(test.last)); !got.Equal(at(test.want)) {
			t.Errorf("%s: from %.1f, want %.1f", test.name, got.Sub(at(0)).Seconds(), test.want)
		}
	}
}
