package queue

import "testing"

func openDead(t testing.TB, opts DeadLetterOptions) *DeadLetters {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	d, err := OpenDeadLetters(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func list(t testing.TB, d Letters, filter DeadLetterFilter) []DeadLetter {
	t.Helper()
	letters, err := d.List(filter)
	if err != nil {
		t.Fatal(err)
	}
	return letters
}
