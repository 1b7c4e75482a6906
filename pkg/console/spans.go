package console

import (
	"cmp"
	"slices"
)

// span is a range of numbers, both ends included, of at most maxJump numbers.
type span struct{ from, to int64 }

func (s span) count() int64 { return s.to - s.from + 1 }

// spans are ranges in rising order that do not touch.
type spans []span

func (s spans) count() (n int64) {
	for i := range s {
		n += s[i].count()
	}
	return n
}

// search returns the first range that ends at a number or behind it.
func (s spans) search(number int64) int {
	i, _ := slices.BinarySearchFunc(s, number, func(one span, number int64) int { return cmp.Compare(one.to, number) })
	return i
}

func (s spans) contains(number int64) bool {
	i := s.search(number)
	return i < len(s) && s[i].from <= number
}

// remove returns s without a number, and whether that was in it.
func (s spans) remove(number int64) (spans, bool) {
	if !s.contains(number) {
		return s, false
	}
	i := s.search(number)
	var rest []span
	if s[i].from < number {
		rest = append(rest, span{s[i].from, number - 1})
	}
	if number < s[i].to {
		rest = append(rest, span{number + 1, s[i].to})
	}
	return slices.Replace(s, i, i+1, rest...), true
}

// above returns s without the numbers up to one.
func (s spans) above(number int64) spans {
	s, _ = s.remove(number)
	return slices.Delete(s, 0, s.search(number))
}
