package units

import (
	"fmt"
	"strconv"
	"time"
)

// ShortDuration is a duration for people, in at most two units.
func ShortDuration(d time.Duration) string {
	d = max(0, d)
	if d > 0 {
		d = max(time.Second, d)
	}
	unit := func(n time.Duration, of string, rest time.Duration, restOf string) string {
		s := strconv.FormatInt(int64(n), 10) + "\u202f" + of
		if rest > 0 {
			s += " " + strconv.FormatInt(int64(rest), 10) + "\u202f" + restOf
		}
		return s
	}
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return unit(d/time.Second, "s", 0, "")
	case d < time.Hour:
		return unit(d/time.Minute, "min", d%time.Minute/time.Second, "s")
	case d < day:
		return unit(d/time.Hour, "h", d%time.Hour/time.Minute, "min")
	}
	return unit(d/day, "d", d%day/time.Hour, "h")
}

// Number writes a number and groups its digits, so that large numbers can be read.
func Number(v any) string {
	s := fmt.Sprint(v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// ByteSize is a number of bytes for people.
func ByteSize(n int64) string {
	const step = 1024
	v, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for v >= step && i < len(units)-1 {
		v /= step
		i++
	}
	if i == 0 || v >= 100 {
		return fmt.Sprintf("%.0f\u202f%s", v, units[i])
	}
	return fmt.Sprintf("%.1f\u202f%s", v, units[i])
}
