package status

import (
	"slices"
	"testing"
	"time"
)

func TestMinutes(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_700_000_040, 0) // at the beginning of a minute
	last := func(n int64, before ...int64) []int64 {
		return append(make([]int64, RatedMinutes-1-len(before)), append(before, n)...)
	}
	var m Minutes
	for _, step := range []struct {
		name  string
		after time.Duration
		total int64
		want  []int64
	}{
		{"nothing yet", 0, 0, last(0)},
		{"three", time.Second, 3, last(3)},
		{"one more", 59 * time.Second, 4, last(4)},
		{"the next minute", 60 * time.Second, 4, last(0, 4)},
		{"in it", 61 * time.Second, 14, last(10, 4)},
		{"after a pause", 4 * time.Minute, 15, last(1, 4, 10, 0, 0)},
		{"the clock goes back", 3 * time.Minute, 17, last(3, 4, 10, 0, 0)},
		{"a counter that begins anew", 4 * time.Minute, 0, last(3, 4, 10, 0, 0)},
		{"and goes on", 4 * time.Minute, 2, last(5, 4, 10, 0, 0)},
		{"an hour later the first has gone", 60 * time.Minute, 2, append(slices.Concat([]int64{10, 0, 0, 5}, make([]int64, 55)), 0)},
		{"much later", 300 * time.Minute, 3, last(1)},
	} {
		if got := m.List(start.Add(step.after), step.total); !slices.Equal(got, step.want) {
			t.Errorf("%s: %v, not %v", step.name, got, step.want)
		}
	}
}
