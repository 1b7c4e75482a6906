package appendlog

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// A table does what a map would do, over openings and however often its file is made anew.
func TestTable(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "table")
	options := TableOptions{
		System: datadir.Disk, Path: path,
		Describe: func(number uint64, shown []byte) (string, int64, error) {
			return string(shown[:1]), int64(len(shown)), nil
		},
		Damaged: func(err error) { t.Error(err) }, Failed: func(err error) { t.Error(err) },
	}
	table, err := OpenTable(options)
	if err != nil {
		t.Fatal(err)
	}
	type entry struct{ shown, data string }
	model, next := map[uint64]entry{}, uint64(1)
	r := rand.New(rand.NewPCG(3, 4))
	largest := int64(0)
	for step := range 3000 {
		known := slices.Sorted(maps.Keys(model))
		switch r.IntN(5) {
		case 0, 1:
			var added []Addition
			for range 1 + r.IntN(3) {
				e := entry{string(rune('a'+r.IntN(3))) + fmt.Sprint(step), string(bytes.Repeat([]byte{'x'}, r.IntN(9000)))}
				added = append(added, Addition{
					Class: e.shown[:1], Number: next, Cost: int64(len(e.shown)), Shown: []byte(e.shown), Data: []byte(e.data),
				})
				model[next] = e
				next += 1 + r.Uint64N(3)
			}
			var gone []uint64
			if len(known) > 150 {
				gone = known[:2]
				delete(model, gone[0])
				delete(model, gone[1])
			}
			err = table.Add(added, gone)
		case 2:
			if len(known) == 0 {
				continue
			}
			number := known[r.IntN(len(known))]
			e := model[number]
			e.shown = e.shown[:1] + fmt.Sprint("changed ", step)
			model[number] = e
			err = table.Change(number, []byte(e.shown), int64(len(e.shown)))
		case 3:
			numbers := []uint64{next + 5}
			for i := range min(len(known), r.IntN(4)) {
				numbers = append(numbers, known[(i*7)%len(known)])
			}
			slices.Sort(numbers)
			numbers = slices.Compact(numbers)
			var n int
			if n, err = table.Remove(numbers); err == nil && n != len(numbers)-1 {
				t.Fatalf("step %d: %d of %v removed", step, n, numbers)
			}
			for _, number := range numbers {
				delete(model, number)
			}
		case 4:
			if step%10 == 0 {
				if err = table.Close(); err == nil {
					table, err = OpenTable(options)
				}
			}
		}
		if err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		largest = max(largest, table.file.Size())
		if step%50 != 0 {
			continue
		}
		known = slices.Sorted(maps.Keys(model))
		cost := int64(0)
		for _, e := range model {
			cost += int64(len(e.shown))
		}
		i := 0
		table.Each("", 0, math.MaxUint64, func(e *Entry) bool {
			shown, err := table.Shown(e)
			data, err2 := table.Data(e)
			if want := model[e.Number]; i >= len(known) || e.Number != known[i] || string(shown) != want.shown || string(data) != want.data || err != nil || err2 != nil {
				t.Fatalf("step %d: entry %d is %q and %d bytes, %v, %v", step, e.Number, shown, len(data), err, err2)
			}
			i++
			return true
		})
		if _, all := table.Costs(); i != len(known) || all != cost || table.Whole() != nil {
			t.Fatalf("step %d: %d of %d entries, cost %d of %d, %v", step, i, len(known), all, cost, table.Whole())
		}
	}
	if largest < 2*tableWaste || table.file.Size() > largest/2+tableWaste {
		t.Logf("the file was %d bytes and is %d", largest, table.file.Size())
	}
	if err := table.Change(next+5, nil, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there was changed: %v", err)
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	if stat, err := os.Stat(path); err != nil || stat.Size() > 2*table.live+2*tableWaste {
		t.Errorf("%d bytes for %d, %v", stat.Size(), table.live, err)
	}
}
