package budget

import (
	"math"
	"math/rand/v2"
	"runtime/debug"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What may be received and not be stored yet follows the memory limit of the process.
func TestOfProcess(t *testing.T) {
	was := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(was) })
	const mib = 1 << 20
	for limit, want := range map[int64]int{
		math.MaxInt64: 144 * mib, 1 << 40: 144 * mib, 1024 * mib: 64 * mib, 192 * mib: 16 * mib, mib: 16 * mib,
	} {
		debug.SetMemoryLimit(limit)
		if got := OfProcess(); got != want {
			t.Errorf("%d MiB: %d, want %d", limit/mib, got, want)
		}
	}
}

// What is given back lets all try again that wait for it.
func TestBudget(t *testing.T) {
	b := New(100)
	if b.Take(100) != nil {
		t.Fatal("there is no room")
	}
	first, second := b.Take(1), b.Take(50)
	select {
	case <-first:
		t.Fatal("there is room")
	default:
	}
	b.Give(60)
	<-first
	<-second
	if b.Take(50) != nil || b.Take(11) == nil || b.Take(10) != nil || b.Used() != 100 {
		t.Errorf("%d of 100 are used", b.Used())
	}
	var none *Budget
	none.Give(5)
	if none.Take(math.MaxInt) != nil || none.Used() != 0 {
		t.Error("what has no limit is full")
	}
}

// Accounts take of the budget what is beyond what each has for itself, and give back just that.
func TestAccounts(t *testing.T) {
	b := New(1000)
	rnd := rand.New(rand.NewPCG(1, 2))
	accounts := []*Account{{Budget: b, Free: 100}, {Budget: b, Free: 0}, {Budget: b, Free: 300}}
	full := 0
	for range 20_000 {
		a := accounts[rnd.IntN(len(accounts))]
		n := rnd.IntN(400)
		switch {
		case rnd.IntN(3) == 0:
			a.Give(min(n, a.held))
		case a.Take(n) != nil:
			full++
		}
		want := 0
		for _, a := range accounts {
			want += max(0, a.held-a.Free)
		}
		if b.Used() != want || want > 1000 {
			t.Fatalf("%d are used, want %d", b.Used(), want)
		}
	}
	for _, a := range accounts {
		a.Close()
	}
	if b.Used() != 0 || full < 100 {
		t.Errorf("%d are used in the end, %d found no room", b.Used(), full)
	}
}
