package deliver

// fifo is a first-in first-out queue in one slice, whose memory is used again.
type fifo[T any] struct {
	all  []T
	head int
}

func (f *fifo[T]) len() int { return len(f.all) - f.head }

// rest returns what is in it. It is valid until the next change.
func (f *fifo[T]) rest() []T { return f.all[f.head:] }

func (f *fifo[T]) push(items ...T) {
	if f.head > len(f.all)/2 {
		n := copy(f.all, f.all[f.head:])
		clear(f.all[n:])
		f.all, f.head = f.all[:n], 0
	}
	f.all = append(f.all, items...)
}

// drop removes the first n. They are cleared, for they may hold much memory.
func (f *fifo[T]) drop(n int) {
	clear(f.all[f.head : f.head+n])
	if f.head += n; f.head == len(f.all) {
		f.all, f.head = f.all[:0], 0
	}
}
