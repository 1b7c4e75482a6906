package event

// Nearest returns the name that is most like the given one, or "" where none is near enough to be
// what was meant.
func Nearest(given string, names []string) string {
	best, bestDistance := "", 1+max(1, len(given)/3)
	for _, name := range names {
		if d := distance(given, name); d < bestDistance {
			best, bestDistance = name, d
		}
	}
	return best
}

// distance counts the letters to insert, remove, replace or swap with their neighbor to get from a
// to b.
func distance(a, b string) int {
	// longer keys are no typing mistakes
	const limit = 64
	if len(a) > limit || len(b) > limit {
		return len(a) + len(b)
	}
	var last, row, next [limit + 1]int
	for j := range len(b) + 1 {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], last[j-2]+1)
			}
		}
		last, row = row, next
	}
	return row[len(b)]
}
