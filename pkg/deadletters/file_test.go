package deadletters

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// counts are metrics.
type counts struct {
	bytes            int64
	dropped, damages int
}

func (c *counts) DeadLetters(bytes int64, dropped int) { c.bytes, c.dropped = bytes, c.dropped+dropped }
func (c *counts) Damaged()                             { c.damages++ }

func damaged(d *File) int { return d.opts.Metrics.(*counts).damages }

func damagedFiles(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+datadir.DamagedSuffix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func openDead(t testing.TB, opts Options) *File {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	d, err := Open(opts)
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

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	testLetters(t, func(t *testing.T) openLetters {
		dir := scratch.Memory(t)
		return func(t testing.TB, limit LettersLimit) Letters {
			return openDead(t, Options{Dir: dir, MaxBytes: limit.MaxBytes, OnDropped: limit.OnDropped})
		}
	})
}

func list(t testing.TB, d Letters, filter Filter) []Letter {
	t.Helper()
	letters, err := d.List(filter)
	if err != nil {
		t.Fatal(err)
	}
	return letters
}

// What the file takes and the metrics show, beside what is promised of any dead letters.
func TestDeadLettersFile(t *testing.T) {
	t.Parallel()
	dropped, kept := 0, new(counts)
	opts := Options{Dir: scratch.Memory(t), MaxBytes: 100_000, Metrics: kept, OnDropped: func(_ string, n int) { dropped += n }}
	d := openDead(t, opts)
	for i := range 200 {
		if err := d.Put(Letter{Sink: fmt.Sprint(i % 3), Data: make([]byte, 1000)}, Letter{Sink: "s"}); err != nil {
			t.Fatal(err)
		}
	}
	check := func() {
		t.Helper()
		var sum int64
		sizes, all := d.table.Costs()
		for _, size := range sizes {
			sum += size
		}
		if sum != all || sum != d.Bytes() || kept.bytes != sum || kept.dropped != dropped {
			t.Errorf("%d bytes of the sinks, %d of all", sum, d.Bytes())
		}
	}
	check()
	stat, err := os.Stat(d.path)
	if err != nil || stat.Size() > 8<<20 || dropped == 0 {
		t.Errorf("%v, %v, %d dropped", stat, err, dropped)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	*kept, dropped = counts{}, 0
	d = openDead(t, opts)
	check()
}

// Damage to a key must not make one letter of another.
func TestDeadLetterKey(t *testing.T) {
	t.Parallel()
	l := Letter{Sink: "s", Status: 400, Reason: "no", Request: "status-change 9f0c", Size: 3}
	key, other := sequenceKey(5), sequenceKey(6)
	b := encodeLetter(key, &l)
	if got, err := decodeLetter(key, b); err != nil || got.Sink != "s" || got.Request != "status-change 9f0c" || got.Size != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := decodeLetter(other, b); !errors.Is(err, errLetter) {
		t.Errorf("under another key: %v", err)
	}
	b, _ = appendlog.CutCRC(b, key...)
	b[0]++
	if _, err := decodeLetter(key, appendlog.AppendCRC(b, key...)); !errors.Is(err, errLetter) {
		t.Errorf("a layout nobody knows: %v", err)
	}
}

// What has the right sum, and is no letter all the same, is refused; what is read is written as it
// was.
func FuzzDecodeLetter(f *testing.F) {
	l := Letter{Sink: "s", Status: 400, Reason: "no", Request: "status-change 9f0c", Size: 3}
	b, _ := appendlog.CutCRC(encodeLetter(sequenceKey(5), &l), sequenceKey(5)...)
	f.Add(sequenceKey(5), b)
	f.Add(sequenceKey(5), []byte{})
	f.Add([]byte{}, []byte{letterVersion})
	f.Fuzz(func(t *testing.T, key, b []byte) {
		got, err := decodeLetter(key, appendlog.AppendCRC(slices.Clone(b), key...))
		if err != nil {
			if !errors.Is(err, errLetter) {
				t.Error(err)
			}
			return
		}
		got.Status = min(got.Status, 1<<30) // as far as it is written
		if again, err := decodeLetter(key, encodeLetter(key, &got)); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%+v, %v; first %+v", again, err, got)
		}
		if _, err := decodeLetter(key, b); len(b) > 0 && err == nil {
			t.Error("without its sum it is read as well")
		}
	})
}

// A letter keeps what it is about; one that a version without that has written is read all the same.
func TestDeadLettersSummary(t *testing.T) {
	t.Parallel()
	key := sequenceKey(7)
	l := Letter{ID: letterID(7), Sink: "s", Time: time.Unix(0, 1), Reason: "no", EventID: "e", EventType: "os-message", Summary: "PART1: IXC101I", Size: 3}
	b := encodeLetter(key, &l)
	if got, err := decodeLetter(key, b); err != nil || !reflect.DeepEqual(got, l) {
		t.Errorf("%+v, %v", got, err)
	}
	content, _ := appendlog.CutCRC(b, key...)
	old := slices.Clone(content[:len(content)-len(appendlog.AppendSized(nil, l.Summary))])
	old[0] = letterWithoutSummary
	want := l
	want.Summary = ""
	if got, err := decodeLetter(key, appendlog.AppendCRC(old, key...)); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("of an earlier version: %+v, %v", got, err)
	}
}

func TestDeadLettersDamage(t *testing.T) {
	t.Parallel()
	make100 := func(t *testing.T) *File {
		t.Helper()
		d := openDead(t, Options{Dir: scratch.Memory(t), Metrics: new(counts)})
		for i := range 100 {
			if err := d.Put(Letter{Sink: "s", Reason: fmt.Sprintf("reason %d", i), Data: fmt.Appendf(nil, "data of %d%s", i, make([]byte, 500))}); err != nil {
				t.Fatal(err)
			}
		}
		return d
	}
	change := func(t *testing.T, path, from, to string) {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.ReplaceAll(string(b), from, to)
		if changed == string(b) {
			t.Fatal("nothing to change")
		}
		if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a letter", func(t *testing.T) {
		t.Parallel()
		d := make100(t)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		change(t, d.path, "reason 42", "reason 43")
		change(t, d.path, "data of 57", "data of 58")
		d = openDead(t, d.opts)
		all := list(t, d, Filter{})
		if len(all) != 99 {
			t.Fatalf("%d letters", len(all))
		}
		i := slices.IndexFunc(all, func(l Letter) bool { return l.Reason == "reason 57" })
		if l, err := d.Get(all[i].ID); err == nil {
			t.Errorf("got %q", l.Data)
		}
		if n, err := d.Delete(all[i].ID); n != 1 || err != nil {
			t.Errorf("%d deleted, %v", n, err)
		}
		if len(damagedFiles(t, d.opts.Dir)) != 0 || damaged(d) != 1 {
			t.Error("the file was set aside or nothing counted")
		}
	})
	t.Run("the file", func(t *testing.T) {
		t.Parallel()
		d := make100(t)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d.path, []byte("nothing of it is left"), 0o600); err != nil {
			t.Fatal(err)
		}
		d = openDead(t, d.opts)
		if err := d.Put(Letter{Sink: "s"}); err != nil {
			t.Fatal(err)
		}
		if len(list(t, d, Filter{})) != 1 || len(damagedFiles(t, d.opts.Dir)) != 1 {
			t.Error("no new file")
		}
	})
	// What is cut off is lost, and what is in front of it is not.
	t.Run("its end", func(t *testing.T) {
		t.Parallel()
		d := make100(t)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(d.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(d.path, int64(bytes.Index(b, []byte("reason 98")))); err != nil {
			t.Fatal(err)
		}
		for start, want := range []int{1, 0} {
			d.opts.Metrics = new(counts)
			d = openDead(t, d.opts)
			if got := damaged(d); got != want {
				t.Errorf("start %d: %v counted", start+1, got)
			}
			if err := d.Put(Letter{Sink: "s"}); err != nil {
				t.Fatal(err)
			}
			if got := list(t, d, Filter{}); len(got) != 99+start || got[97].Reason != "reason 97" {
				t.Errorf("start %d: %d letters", start+1, len(got))
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("the file, while open", func(t *testing.T) {
		t.Parallel()
		for _, change := range []func(path string) error{os.Remove, func(path string) error { return os.Truncate(path, 4096) }} {
			d := make100(t)
			if err := change(d.path); err != nil {
				t.Fatal(err)
			}
			left := len(list(t, d, Filter{}))
			if err := d.Put(Letter{Sink: "s"}); err != nil {
				t.Fatal(err)
			}
			if got := len(list(t, d, Filter{})); left > 10 || got != left+1 || damaged(d) == 0 {
				t.Errorf("%d letters, then %d", left, got)
			}
		}
	})
	if _, err := Open(Options{}); err == nil {
		t.Error("opened nowhere")
	}
	if _, err := Open(Options{Dir: filepath.Join(t.TempDir(), "x", "y")}); err == nil {
		t.Error("opened in a directory that does not exist")
	}
}
