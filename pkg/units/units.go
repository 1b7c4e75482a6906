// Package units reads and writes sizes and durations as people put them into files.
package units

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes. In a file it may have a unit: 512MiB.
type Size int64

// sizeUnits are the units of a Size, the largest first.
var sizeUnits = []struct {
	name   string
	factor int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// String returns the size with the largest unit that divides it.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && int64(s)%u.factor == 0 {
			return strconv.FormatInt(int64(s)/u.factor, 10) + u.name
		}
	}
	return "0B"
}

// How sizes and durations are written.
var (
	ErrSize     = errors.New("must be a size such as 512MiB or 1GiB (units B, KiB, MiB, GiB, TiB)")
	ErrDuration = errors.New("must be a duration with its unit, such as 500ms, 30s, 24h or 7d")
	ErrNegative = errors.New("must not be negative")
)

// ParseSize reads a whole number of bytes, or a number with a unit.
func ParseSize(s string) (Size, error) {
	number, factor := s, int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			number, factor = strings.TrimRight(rest, " "), u.factor
			break
		}
	}
	if n, err := strconv.ParseUint(number, 10, 63); err == nil {
		if n > math.MaxInt64/uint64(factor) {
			return 0, ErrSize
		}
		return Size(n) * Size(factor), nil
	}
	// A fraction such as 1.5GiB; exact for every size a disk can have.
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || factor == 1 || strings.Trim(number, "0123456789.") != "" || f*float64(factor) >= 1<<53 {
		return 0, ErrSize
	}
	return Size(f * float64(factor)), nil
}

// ParseDuration reads a duration as Go writes it, and with days and weeks as Prometheus does. A
// bare 0 needs no unit.
func ParseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	if strings.HasPrefix(s, "-") {
		return 0, ErrNegative
	}
	var sum time.Duration
	for rest := s; rest != ""; {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789."))
		unit := strings.IndexAny(rest[digits:]+"0", "0123456789.")
		number, name := rest[:digits], rest[digits:digits+unit]
		factor := time.Duration(1)
		switch name {
		case "d":
			factor, name = 24, "h"
		case "w":
			factor, name = 7*24, "h"
		}
		d, err := time.ParseDuration(number + name)
		if err != nil || digits == 0 || d > (math.MaxInt64-sum)/factor {
			return 0, ErrDuration
		}
		sum += d * factor
		rest = rest[digits+unit:]
	}
	if s == "" {
		return 0, ErrDuration
	}
	return sum, nil
}

// FormatDuration writes a duration as people do: 24h, not 24h0m0s.
func FormatDuration(d time.Duration) string {
	return strings.NewReplacer("h0m0s", "h", "m0s", "m").Replace(d.String())
}

// Plural returns a noun as it is said of n things.
func Plural[N int | int64](n N, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}
