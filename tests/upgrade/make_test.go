package upgrade_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/tests/archive"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
)

// makeVariable makes TestMake write the fixtures of the build that HMCNOTIFYD_BINARY names. It is
// used once for a version: what it has written is kept as it is.
//
//	HMCNOTIFYD_MAKE_UPGRADE=1 HMCNOTIFYD_BINARY=/path/to/hmcnotifyd go test -run TestMake ./tests/upgrade
const makeVariable = "HMCNOTIFYD_MAKE_UPGRADE"

// TestMake has a daemon live through all that leaves something in its data directory, and ends it.
func TestMake(t *testing.T) {
	if os.Getenv(makeVariable) == "" {
		t.Skip("the fixtures of this version are written when " + makeVariable + " is set")
	}
	for _, killed := range []bool{true, false} {
		m := newMaker(t)
		m.fix.Killed = killed
		m.live()
		m.end()
		m.write()
	}
}

type maker struct {
	t          *testing.T
	east, west *console
	ops, siem  *hook
	alerts     *alertmanager
	daemon     *daemon.Daemon
	fix        fixture
}

func newMaker(t *testing.T) *maker {
	made := time.Now().Truncate(time.Millisecond).UTC()
	m := &maker{
		t: t, east: startHMC(t, "east", made), west: startHMC(t, "west", made),
		ops: startHook(t), siem: startHook(t), alerts: startAlertmanager(t), fix: fixture{Made: made},
	}
	version, status := daemon.Run(t, within, "version")
	if fields := strings.Fields(version); status == 0 && len(fields) > 1 {
		m.fix.Version = strings.TrimSuffix(fields[1], ",")
	}
	return m
}

// do does a step now, and notes it.
func (m *maker) do(s step) {
	s.At = time.Now().Truncate(time.Millisecond).UTC()
	m.console(s.HMC).do(m.t, s)
	m.fix.History = append(m.fix.History, s)
}

func (m *maker) console(name string) *console {
	if name == "west" {
		return m.west
	}
	return m.east
}

func (m *maker) messages(hmc string, partition hmcsim.PartitionInfo, texts ...string) {
	m.do(step{HMC: hmc, Do: doMessages, Object: partition.ID, Text: texts})
}

func (m *maker) journal() []arrival {
	return journal(m.t, filepath.Join(m.daemon.Dir, "events.log"))
}

// awaitEvents waits until so many events of a kind are in the journal.
func (m *maker) awaitEvents(what string, n int, is func(a *arrival) bool) {
	m.t.Helper()
	await(m.t, what, func() error {
		if got := count(m.journal(), is); got < n {
			return fmt.Errorf("%d of %d", got, n)
		}
		return nil
	})
}

func (m *maker) awaitText(text string) {
	m.t.Helper()
	m.awaitEvents(text, 1, func(a *arrival) bool { return bytes.Contains(a.raw, []byte(text)) })
}

// live is the daemon's life.
func (m *maker) live() {
	t, east, west := m.t, m.east.sim.Partitions(), m.west.sim.Partitions()
	m.ops.set(func(body []byte) int {
		if bytes.Contains(body, []byte("poison")) {
			return http.StatusBadRequest
		}
		return http.StatusOK
	})

	// What is there before the daemon is. What a simulator of some later version would have operating
	// systems write at their IPL is not of this history.
	for _, hmc := range []struct {
		name       string
		partitions []hmcsim.PartitionInfo
	}{{"east", east}, {"west", west}} {
		for _, p := range hmc.partitions {
			m.do(step{HMC: hmc.name, Do: doDelete, Object: p.ID})
			m.do(step{HMC: hmc.name, Do: doSequence, Object: p.ID, Number: 0})
			m.messages(hmc.name, p, "at the IPL", " ", "*00 asked at the IPL", "after the IPL")
		}
	}
	m.do(step{HMC: "east", Do: doHardware, Object: "", Text: []string{"a power supply of the console has failed"}})
	m.do(step{HMC: "east", Do: doHardware, Object: m.east.sim.CPCs()[0].ID, Text: []string{"a fan has failed"}})
	for i := range east {
		m.do(step{HMC: "east", Do: doStatus, Object: east[i].ID, Text: []string{good(east[i])}})
		m.do(step{HMC: "west", Do: doStatus, Object: west[i].ID, Text: []string{good(west[i])}})
		m.messages("east", east[i], "first of the first system", "second of the first system")
		m.messages("west", west[i], "before west was followed")
	}
	m.do(step{HMC: "east", Do: doLog, Object: hmcsim.TopicAudit, Text: []string{"before the daemon was there"}})

	m.daemon = daemon.Start(t, daemon.Options{
		Config: configuration(m.east, m.west, m.ops.server.URL, m.siem.server.URL, m.alerts.server.URL),
	})
	m.daemon.AwaitMetric(t, within, 2, "hmcnotifyd_receiver_connected")
	m.awaitEvents("held OS messages", 8, func(a *arrival) bool { return strings.HasSuffix(a.text(), "of the first system") })
	m.awaitEvents("hardware messages", 2, func(a *arrival) bool { return a.Type == event.TypeHardwareMessage })
	time.Sleep(3 * time.Second) // for west to know from where on partitions are followed that are quiet

	// Everything works.
	for i := range 4 {
		m.east.change(east[i], fmt.Sprintf("delivered %d", i))
		m.west.change(west[i], fmt.Sprintf("delivered %d", i))
		m.messages("east", east[i], fmt.Sprintf("delivered %d", i), " ", "the same text", "the same text")
	}
	m.messages("west", west[0], "delivered 0", "delivered 1")
	m.messages("west", west[2], "delivered 2")
	m.do(step{HMC: "east", Do: doStatus, Object: east[0].ID, Text: []string{bad(east[0])}})
	m.do(step{HMC: "east", Do: doStatus, Object: east[0].ID, Text: []string{good(east[0])}})
	m.do(step{HMC: "east", Do: doLog, Object: hmcsim.TopicAudit, Text: []string{"delivered 1", "delivered 2", "delivered 2"}})
	m.do(step{HMC: "east", Do: doLog, Object: hmcsim.TopicSecurity, Text: []string{"delivered 3"}})
	m.do(step{HMC: "west", Do: doLog, Object: hmcsim.TopicAudit, Text: []string{"delivered 4"}})
	for i := range 3 {
		m.east.change(east[i], fmt.Sprintf("poison %d", i))
	}
	m.daemon.AwaitMetric(t, within, 3, "hmcnotifyd_sink_dead_letters")

	// The numbers of some partitions start anew, with messages that were there before among others.
	for _, p := range []hmcsim.PartitionInfo{east[1], east[2]} {
		m.do(step{HMC: "east", Do: doSequence, Object: p.ID, Number: 0})
		time.Sleep(3100 * time.Millisecond) // until then it would be a repetition
		m.messages("east", p, "first of the first system", "second of the second system", "third of the second system")
	}

	// A gap that is reported.
	m.cut(m.west)
	m.messages("west", west[1], "written while west was out of sight")
	if err := m.west.sim.Broker().StartListening(); err != nil {
		t.Fatal(err)
	}
	m.awaitText("written while west was out of sight")
	m.awaitEvents("a gap", 1, func(a *arrival) bool { return a.Type == event.TypeBridgeGap })
	m.daemon.AwaitMetric(t, within, 0, "hmcnotifyd_sink_queue_events")
	time.Sleep(2 * time.Second) // until the positions of the sinks are stored

	// Two sinks do not take anything any more.
	m.ops.set(func([]byte) int { return http.StatusServiceUnavailable })
	m.siem.server.Close()
	for i := range 4 {
		m.east.change(east[i], fmt.Sprintf("waiting %d", i))
		m.west.change(west[i], fmt.Sprintf("waiting %d", i))
		m.messages("east", east[i], fmt.Sprintf("waiting %d", i), fmt.Sprintf("*%02d waiting for an answer", i))
	}
	m.messages("west", west[0], "waiting 1", "waiting 2")
	m.do(step{HMC: "west", Do: doLog, Object: hmcsim.TopicAudit, Text: []string{"waiting 4"}})
	m.do(step{HMC: "east", Do: doRename, Object: east[3].ID, Text: []string{"RENAMED"}})
	m.do(step{HMC: "east", Do: doStatus, Object: east[0].ID, Text: []string{bad(east[0])}})
	m.awaitText("waiting 4")
	m.awaitText("RENAMED")
	m.cut(m.west) // a gap that is not reported
	time.Sleep(2 * time.Second)
	await(t, "open alerts", func() error {
		// Of the partition, the link of west, two hardware messages and the messages that were held.
		if n := len(m.alerts.firing()); n < 5 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	m.do(step{HMC: "east", Do: doLog, Object: hmcsim.TopicAudit, Text: []string{"the last"}})
	m.awaitText("the last")
	time.Sleep(300 * time.Millisecond)
	m.fix.Alerts = m.alerts.firing()
}

// cut cuts the link of an HMC, which does not accept another one.
func (m *maker) cut(c *console) {
	before := count(m.journal(), func(a *arrival) bool { return a.Type == event.TypeBridgeDisconnected })
	c.sim.Broker().StopListening()
	c.sim.Broker().DropLinks()
	m.awaitEvents("disconnected", before+1, func(a *arrival) bool { return a.Type == event.TypeBridgeDisconnected })
}

// end ends the daemon.
func (m *maker) end() {
	m.fix.Ended = time.Now().UTC()
	if m.fix.Killed {
		m.daemon.Kill()
		return
	}
	m.daemon.Stop(m.t)
}

// write writes the directory and what is expected of it.
func (m *maker) write() {
	t, fix := m.t, &m.fix
	ops, siem := m.ops.handled(), m.siem.handled()
	fix.Waiting = map[string][]string{"ops": {}, "siem": {}}
	for _, a := range m.journal() {
		fix.Stored = append(fix.Stored, stored{a.ID, sum(a.raw)})
		if !ops[a.ID] {
			fix.Waiting["ops"] = append(fix.Waiting["ops"], a.ID)
		}
		forSIEM := slices.Contains([]string{event.TypeOSMessage, event.TypeLogEntry, event.TypeStatusChange, event.TypeBridgeGap}, a.Type)
		if forSIEM && !siem[a.ID] {
			fix.Waiting["siem"] = append(fix.Waiting["siem"], a.ID)
		}
	}
	how := "term"
	if fix.Killed {
		how = "kill"
	}
	name := filepath.Join("testdata", fix.Version+"-"+how)
	pack(t, m.daemon.Storage, name+".tar.gz")
	m.look(unpack(t, name+".tar.gz"))
	data, err := json.MarshalIndent(fix, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name+".json", append(data, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d events, %d wait for ops, %d for siem, %d dead letters, alerts %v, last contact %v, ended %v, gaps %v, %d keys of the state",
		name, len(fix.Stored), len(fix.Waiting["ops"]), len(fix.Waiting["siem"]), len(fix.DeadLetters), fix.Alerts, fix.LastContact, fix.Ended, fix.Gaps, len(fix.State))
}

// look takes from a copy of the directory what is in it.
func (m *maker) look(dir string) {
	t, fix := m.t, &m.fix
	dead, err := queue.OpenDeadLetters(queue.DeadLetterOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	letters, err := dead.List(queue.DeadLetterFilter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range letters {
		fix.DeadLetters = append(fix.DeadLetters, deadLetter{ID: l.ID, Sink: l.Sink, EventID: l.EventID, Status: l.Status})
	}
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	fix.State, fix.LastContact, fix.Gaps = make(map[string]string), make(map[string]time.Time), make(map[string]gap)
	for key, value := range stateOf(t, dir) {
		fix.State[key] = sum(value)
		if hmc, ok := strings.CutPrefix(key, "last/"); ok {
			fix.LastContact[hmc] = time.Unix(0, int64(binary.BigEndian.Uint64(value))).UTC()
		}
		if hmc, ok := strings.CutPrefix(key, "gap/"); ok {
			var g gap
			if err := json.Unmarshal(value, &g); err != nil {
				t.Fatal(err)
			}
			fix.Gaps[hmc] = g
		}
	}
}

// stateOf reads the state of a queue that nobody uses.
func stateOf(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	q, err := queue.Open(queue.Options{Dir: dir, MaxBytes: queue.Unlimited})
	if err != nil {
		t.Fatal(err)
	}
	state := make(map[string][]byte)
	q.StateRange("", func(key string, value []byte) bool {
		state[key] = bytes.Clone(value)
		return true
	})
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	return state
}

// pack writes the files of a directory into an archive.
func pack(t *testing.T, dir, path string) {
	t.Helper()
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(&tar.Header{Name: f.Name(), Mode: 0o600, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// unpack returns a directory with the files of an archive.
func unpack(t *testing.T, path string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range archive.Files(t, path) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
