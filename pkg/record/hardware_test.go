package record

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// hardwareRecorder is a recorder on a queue.
func hardwareRecorder(t *testing.T, dir string) (*Recorder, *queue.Queue) {
	t.Helper()
	q, err := queue.Open(queue.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	m := NewMetrics(prometheus.NewRegistry()).ForHMC("a")
	r := NewRecorder(config.HMC{Name: "a"}, q, m, zap.NewNop(), new(translate.TopicTable), testTiming())
	r.Share(NewGroup("a"))
	r.OnMissed = func(topicType string, n int) { t.Errorf("%d missed on %s", n, topicType) }
	r.InSight, r.Heard = time.Now, time.Now
	r.Open(ledger.NewSeenWindow(time.Minute, 100))
	return r, q
}

// messagesOf are n hardware messages from number first on, a second apart.
func messagesOf(first, n int) []hmc.HardwareMessage {
	var out []hmc.HardwareMessage
	for i := first; i < first+n; i++ {
		uri := ConsoleURI + "/hardware-messages/" + strconv.Itoa(i)
		out = append(out, hmc.HardwareMessage{
			Raw: fmt.Appendf(nil, `{"element-uri":%q,"text":"m%d"}`, uri, i), ElementURI: uri, Text: "m" + strconv.Itoa(i),
			Timestamp: time.UnixMilli(1_700_000_000_000 + int64(i)*1000),
		})
	}
	return out
}

// What could not be stored is as if it had not been recorded: it comes again, and nothing else does.
func TestHardwareMessagesThatCannotBeStored(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "q")
	r, q := hardwareRecorder(t, dir)
	console := &HardwareParent{URI: ConsoleURI, Class: ClassConsole, Name: "a"}
	record := func(r *Recorder, messages []hmc.HardwareMessage) (added, gone int) {
		t.Helper()
		change := r.CompareHardware(ConsoleURI, messages, true)
		if _, ok := r.RecordHardware(t.Context(), console, change); !ok {
			t.Error("not recorded")
		}
		return len(change.Added), len(change.Gone)
	}
	if added, gone := record(r, messagesOf(1, 3)); added != 3 || gone != 0 {
		t.Fatalf("%d, %d", added, gone)
	}
	if err := q.Flush(); err != nil {
		t.Fatal(err)
	}
	var again []string
	r.WatchHardware(func(parent string) { again = append(again, parent) })

	if err := q.Close(); err != nil { // from here on it refuses everything
		t.Fatal(err)
	}
	for range 3 {
		if added, gone := record(r, messagesOf(2, 4)); added != 2 || gone != 1 {
			t.Errorf("%d new and %d gone, want 2 and 1", added, gone)
		}
		r.doDue(t.Context(), time.Now(), false)
	}
	// More than a batch holds, which takes what is older than the limit out of the memory as well.
	if added, gone := record(r, messagesOf(1, ledger.HardwareKnown+10)); added != ledger.HardwareKnown+7 || gone != 0 {
		t.Errorf("%d new and %d gone", added, gone)
	}
	r.doDue(t.Context(), time.Now(), false)
	if !slices.Equal(again, []string{ConsoleURI, ConsoleURI, ConsoleURI, ConsoleURI}) {
		t.Errorf("to be listed again: %q", again)
	}
	if added, gone := record(r, messagesOf(1, 3)); added != 0 || gone != 0 {
		t.Errorf("of what is stored %d are new and %d gone", added, gone)
	}

	r, q = hardwareRecorder(t, dir)
	if added, gone := record(r, messagesOf(2, 4)); added != 2 || gone != 1 {
		t.Errorf("after a restart %d are new and %d gone, want 2 and 1", added, gone)
	}
	if err := q.Flush(); err != nil {
		t.Error(err)
	}
}

// More than are remembered are told once all the same, over a restart too, and the state stays within its limit.
func TestHardwareMessagesBeyondTheLimit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "q")
	r, q := hardwareRecorder(t, dir)
	console := &HardwareParent{URI: ConsoleURI, Class: ClassConsole, Name: "a"}
	all := messagesOf(1, ledger.HardwareKnown+500)
	known, ok := r.RecordHardware(t.Context(), console, r.CompareHardware(ConsoleURI, all, true))
	if !ok || known != ledger.HardwareKnown {
		t.Fatalf("%d are known, %v", known, ok)
	}
	for range 2 { // the second time after a restart
		if change := r.CompareHardware(ConsoleURI, all, true); len(change.Added) != 0 || len(change.Gone) != 0 {
			t.Fatalf("%d new, %d gone", len(change.Added), len(change.Gone))
		}
		more := messagesOf(ledger.HardwareKnown+501, 1)
		if change := r.CompareHardware(ConsoleURI, more, false); len(change.Added) != 1 || len(change.Gone) != 0 {
			t.Fatalf("%d new, %d gone", len(change.Added), len(change.Gone))
		}
		if change := r.CompareHardware(ConsoleURI, nil, true); len(change.Gone) != ledger.HardwareKnown {
			t.Fatalf("%d gone", len(change.Gone))
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		r, q = hardwareRecorder(t, dir)
	}
	n := 0
	q.StateRange(stateHardware, func(string, []byte) bool { n++; return true })
	if n != ledger.HardwareKnown+1 {
		t.Errorf("%d values are stored", n)
	}
}
