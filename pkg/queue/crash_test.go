package queue

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// emulatorEnv names the emulator to start a child with, where the system cannot do that by itself.
const emulatorEnv = "HMCNOTIFYD_TEST_EMULATOR"

// childEnv tells the test binary that it is a child process of a test, and which one; childDir
// where its queue is.
const (
	childEnv = "HMCNOTIFYD_QUEUE_CHILD"
	childDir = "HMCNOTIFYD_QUEUE_DIR"
	childArg = "HMCNOTIFYD_QUEUE_ARG"
)

func child() int {
	run, ok := map[string]func(dir, arg string) error{
		"append": childAppend, "full": childFull, "open": childOpen,
	}[os.Getenv(childEnv)]
	if !ok {
		fmt.Fprintln(os.Stderr, "no such child:", os.Getenv(childEnv))
		return 2
	}
	if err := run(os.Getenv(childDir), os.Getenv(childArg)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// startChild runs the test binary again as a child of the given kind.
func startChild(t testing.TB, kind, dir, arg string) (*exec.Cmd, io.ReadCloser) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := []string{self}
	if emulator := os.Getenv(emulatorEnv); emulator != "" {
		command = []string{emulator, self}
	}
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Env = append(os.Environ(), childEnv+"="+kind, childDir+"="+dir, childArg+"="+arg)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); errors.Is(err, syscall.ENOEXEC) {
		t.Skip("this machine runs the tests in an emulator and cannot start the same binary again; see ", emulatorEnv)
	} else if err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

const crashWorkers = 3

var crashOptions = Options{SegmentBytes: 128 << 10, CacheBytes: 32 << 10}

// childAppend appends until it is killed: records "WORKER NUMBER" with numbers from arg on, and the
// last number as state in the same batch. It prints "c WORKER NUMBER" for what is confirmed, and "a
// SEQ" for what the cursor "acker" has stored as acknowledged.
func childAppend(dir, arg string) error {
	opts := crashOptions
	opts.Dir = dir
	q, err := Open(opts)
	if err != nil {
		return err
	}
	c, err := q.Cursor("acker")
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			records, err := c.Next(context.Background(), 50, 0)
			if err != nil {
				fmt.Println("error", err)
				return
			}
			seq := records[len(records)-1].Seq
			if err := errors.Join(c.Ack(seq), q.flushPositions(true)); err != nil {
				fmt.Println("error", err)
				return
			}
			fmt.Println("a", seq)
			q.removeDone()
		}
	})
	for w, first := range strings.Fields(arg) {
		var n int
		if _, err := fmt.Sscan(first, &n); err != nil {
			return err
		}
		group.Go(func() {
			for {
				var b Batch
				for range 1 + rand.IntN(20) {
					b.Records = append(b.Records, fmt.Appendf(nil, "%d %d %s", w, n, strings.Repeat("x", rand.IntN(1000))))
					n++
				}
				confirmed := n - 1
				b.State = []KeyValue{{Key: fmt.Sprintf("worker/%d", w), Value: fmt.Append(nil, confirmed)}}
				b.Done = func(err error) {
					if err != nil {
						fmt.Println("error", err)
						return
					}
					fmt.Println("c", w, confirmed)
				}
				if err := q.Append(context.Background(), b); err != nil {
					fmt.Println("error", err)
					return
				}
			}
		})
	}
	group.Wait()
	return nil
}

// TestKill kills a process that stores and acknowledges under load, again and again. No other test runs
// beside it: until a child is another program it has the files of its parent, and with them the locks
// of queues that other tests close and open again.
func TestKill(t *testing.T) {
	rounds := soak.Count(t, "QUEUE_KILLS", 6, 100)
	dir := t.TempDir()
	opts := crashOptions
	opts.Dir = dir
	var last [crashWorkers]int // number of the last record of each worker
	var confirmed [crashWorkers]int
	var acked, seq uint64
	total := 0
	q := open(t, opts)
	cursor(t, q, "verify")
	cursor(t, q, "acker")
	for round := range rounds {
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		var args []string
		for w := range last {
			args = append(args, fmt.Sprint(last[w]+1))
		}
		cmd, out := startChild(t, "append", dir, strings.Join(args, " "))
		lines := bufio.NewScanner(out)
		kill := time.Duration(rand.IntN(60)) * time.Millisecond
		for started := false; lines.Scan(); {
			if !started {
				started = true
				time.AfterFunc(kill, func() { _ = cmd.Process.Kill() })
			}
			var w, n int
			var s uint64
			switch line := lines.Text(); {
			case strings.HasPrefix(line, "c "):
				if _, err := fmt.Sscanf(line, "c %d %d", &w, &n); err != nil {
					break // the last line may be cut off
				}
				confirmed[w] = max(confirmed[w], n)
			case strings.HasPrefix(line, "a "):
				if _, err := fmt.Sscanf(line, "a %d", &s); err == nil {
					acked = max(acked, s)
				}
			default:
				t.Errorf("child: %s", line)
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}

		q = open(t, opts)
		if got := cursor(t, q, "acker").Acked(); got < acked {
			t.Fatalf("round %d: the cursor went back from %d to %d", round, acked, got)
		}
		c := cursor(t, q, "verify")
		events, _, _ := c.Pending()
		for _, r := range next(t, c, int(events)) {
			var w, n int
			if _, err := fmt.Sscanf(string(r.Data), "%d %d", &w, &n); err != nil {
				t.Fatalf("round %d: record %d is %q", round, r.Seq, r.Data)
			}
			if r.Seq != seq+1 || n != last[w]+1 {
				t.Fatalf("round %d: record %d after %d is number %d of worker %d, after %d", round, r.Seq, seq, n, w, last[w])
			}
			seq, last[w] = r.Seq, n
			total++
		}
		if err := c.Ack(seq); err != nil {
			t.Fatal(err)
		}
		for w := range last {
			if last[w] < confirmed[w] {
				t.Fatalf("round %d: worker %d had %d confirmed, stored are %d", round, w, confirmed[w], last[w])
			}
			state, _ := q.State(fmt.Sprintf("worker/%d", w))
			if got := string(state); got != fmt.Sprint(last[w]) && (last[w] != 0 || got != "") {
				t.Fatalf("round %d: worker %d: the state says %q, the last record is %d", round, w, got, last[w])
			}
		}
		if damaged := damagedFiles(t, dir); len(damaged) > 0 {
			t.Fatalf("round %d: set aside: %v", round, damaged)
		}
	}
	t.Logf("%d records in %d rounds", total, rounds)
}
