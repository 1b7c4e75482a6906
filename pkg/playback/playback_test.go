// Half of a handshake is ML-KEM, which HMCs do not have.
//go:debug tlsmlkem=0
//go:debug tlssecpmlkem=0

package playback

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within is how long a test waits for what takes moments on a machine with nothing else to do.
const within = 3 * time.Minute

func waitFor(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !happened(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %v", what, within)
		}
	}
}

type ports interface {
	RESTPort() int
	StompPort() int
	CACertPEM() []byte
}

// daemon is a Bridge with one HMC and one sink, a file.
type daemon struct {
	t      *testing.T
	bridge *bridge.Bridge
	events string
	cancel context.CancelFunc
	done   chan error
	once   sync.Once
	// known has what was read of the file, which tests look at again and again; read is its length.
	known []event.Event
	read  int
}

func start(t *testing.T, h ports, userid, password string, tap watch.Tap) *daemon {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ca.pem", h.CACertPEM())
	write("hmcnotifyd.yaml", fmt.Appendf(nil, `hmcs:
  - name: hmc
    hosts: ["127.0.0.1"]
    rest_port: %d
    stomp_port: %d
    userid: %s
    password: %q
    tls: {ca_file: ca.pem}
    rest_requests_per_minute: 10000
    topics: [object, job, audit, security]
    os_messages: [{cpc: ".*", partition: ".*"}]
    log_start: 24h # now: the entry of the daemon's own logon is told if both are of one second
    stomp: {connect_timeout: 1m, reconnect_sleep_initial: 10ms, heartbeat_send_cycle: 30s, heartbeat_receive_cycle: 30s}
sinks:
  - name: file
    log: {output: events}
    start: earliest
`, h.RESTPort(), h.StompPort(), userid, password))
	cfg, err := config.Load(filepath.Join(dir, "hmcnotifyd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := bridge.New(bridge.Options{
		Config: cfg, StoragePath: filepath.Join(dir, "data"), Version: "test", Tap: tap, DrainTimeout: within,
		Intervals: watch.Intervals{
			ChannelSoon: 20 * time.Millisecond, ChannelMin: 20 * time.Millisecond, ChannelMax: 200 * time.Millisecond, Relist: 50 * time.Millisecond,
			Recording: record.Timing{Tick: 10 * time.Millisecond, Settle: 200 * time.Millisecond, SeenEvery: 100 * time.Millisecond},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	d := &daemon{t: t, bridge: b, events: filepath.Join(dir, "events"), cancel: cancel, done: make(chan error, 1)}
	go func() { d.done <- b.Run(ctx) }()
	t.Cleanup(d.stop)
	return d
}

func (d *daemon) stop() {
	d.once.Do(func() {
		d.cancel()
		if err := <-d.done; err != nil {
			d.t.Error(err)
		}
	})
}

func (d *daemon) all() []event.Event {
	d.t.Helper()
	data, err := os.ReadFile(d.events)
	if err != nil && !os.IsNotExist(err) {
		d.t.Fatal(err)
	}
	for line := range bytes.Lines(data[d.read:]) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var e event.Event
		if err := json.Unmarshal(line, &e); err != nil {
			d.t.Fatal(err)
		}
		d.known, d.read = append(d.known, e), d.read+len(line)
	}
	return slices.Clone(d.known)
}

// count returns how many events of a type there are.
func (d *daemon) count(kind string) (n int) {
	for _, e := range d.all() {
		if e.Type == kind {
			n++
		}
	}
	return n
}

// shape is what of events does not depend on names: live events, in their order for each resource, which is the order there is,
// and the others counted, as they come when the HMC was asked. Whether a change was planned depends on names where these are words
// of the API: what an audit log says of them is not known by its words then.
func shape(all []event.Event, planned bool) (live []string, others map[string]int) {
	resources := make(map[string]string)
	others = make(map[string]int)
	for i := range all {
		e := &all[i]
		class, words := "", ""
		if e.Resource != nil {
			class = e.Resource.Class
		}
		for report := range event.Elements(event.Member(e.Body, "change-reports")) {
			words += " " + event.String(event.Member(report, "old-status")) + ">" + event.String(event.Member(report, "new-status"))
		}
		if e.Type == event.TypeBridgeGap {
			words = fmt.Sprintf(" missed=%s recovered=%s", event.Member(e.Body, "missed"), event.Member(e.Body, "recovered"))
		}
		text := fmt.Sprintf("%s %s %s %s %d planned=%v repeat=%v%s", e.Type, e.Origin, class, e.Severity,
			len(event.String(event.Member(e.Body, "message-text"))), e.Planned && planned, e.Repeat, words)
		if e.Origin == "live" {
			uri := ""
			if e.Resource != nil {
				uri = e.Resource.ObjectURI
			}
			resources[uri] += text + "\n"
		} else {
			others[text]++
		}
	}
	return slices.Sorted(maps.Values(resources)), others
}

// estate is what a place calls its own.
type estate struct {
	console, userid, password string
	cpcs, partitions          []string
	texts                     []string
}

// hidden are texts with names of an estate in other forms, as programs write them.
func (e *estate) hidden() []string {
	var all []string
	for _, name := range []string{e.cpcs[0], e.userid, e.partitions[1]} {
		all = append(all, "unpack "+base64.StdEncoding.EncodeToString([]byte(zipped("all of "+name+" and more"))), "dump "+hex.EncodeToString([]byte("x"+name)),
			"json "+unicodeEscaped(name), "url "+percentEscaped(name), "opaque "+base64.URLEncoding.EncodeToString([]byte("ab"+name+"c")))
	}
	return all
}

// own is all that a capture of an estate must not have.
func (e *estate) own(ids ...string) (names []string) {
	return slices.Concat(e.cpcs, e.partitions, ids, []string{e.console, e.userid, "10.77.21.5"}, wordsOf(e.texts...))
}

var estates = map[string]estate{
	"plain": {
		"HMCEAST7", "opsmonitor", "Xk47-tulips",
		[]string{"BOXALPHA", "BOXBRAVO"},
		[]string{"PAYROLL1", "GINLEDGER"},
		[]string{"IXC101I REMOVAL OF GOLDFISH9 BY ZEBRAUSER", "mount nfs://10.77.21.5/exports/Quokka failed"},
	},
	"words": { // names that are words of the API, and of sentences
		"Console-Load", "activate", "stop-password-7",
		[]string{"PROFILE-9Z", "Session-Q4"},
		[]string{"LOADLIB7", "Deactivated-X2"},
		[]string{"user kangaroo logged on from otter.example.org", "the Started profile of wombat@example.net"},
	},
	"odd": {
		"HMC_ÄÖ7Z", "zeta.ops", `p"a\ss <&> %41ß`,
		[]string{"Zürich-01x", "ŁÓDŹ#9y"},
		[]string{"LX$A@B#7", "名前テスト9"},
		[]string{`C:\tmp\Brontosaurus "quoted" <tag>`, "émile&Zoë=100%25 💾Platypus"},
	},
}

// live has things happen in an estate.
func live(t *testing.T, h *hmcsim.HMC, e *estate, d *daemon) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "connection", func() bool { return d.count("bridge-connected") == 1 })
	waitFor(t, "channels", func() bool { return h.Delivered()["security"] >= 0 && subscribedAll(h) })
	for i, text := range e.texts {
		_, err := h.OSMessages(e.partitions[i], text, text+" again")
		must(err)
	}
	hidden := e.hidden()
	_, err := h.OSMessages(e.partitions[0], hidden...)
	must(err)
	waitFor(t, "OS messages", func() bool { return d.count("os-message") >= 2*len(e.texts)+len(hidden) })
	h.LogEntries("audit", hmcsim.LogEntry{
		EventID: "1234", User: e.userid, Message: "User " + e.userid + " has deactivated " + e.partitions[0] + " from 10.77.21.5",
	})
	waitFor(t, "an entry", func() bool {
		return slices.ContainsFunc(d.all(), func(e event.Event) bool { return e.Type == "log-entry" && e.Origin == "live" })
	})
	must(h.StopPartition(e.partitions[0]))
	waitFor(t, "stopped partition", func() bool { return atRest(t, h, e.partitions[0]) })
	must(h.StartPartition(e.partitions[0]))
	waitFor(t, "started partition", func() bool { return atRest(t, h, e.partitions[0]) })
	must(h.RenamePartition(e.partitions[1], e.partitions[1]+"N"))
	must(h.SetCPCStatus(e.cpcs[0], "service-required"))
	before := d.count("status-change")
	waitFor(t, "status changes", func() bool { return d.count("status-change") >= max(before, 3) })
	h.SkipSequence(3)
	must(h.SetCPCStatus(e.cpcs[0], "operating"))
	waitFor(t, "gap", func() bool { return d.count("bridge-gap") > 0 })
	h.Broker().DropLinks()
	waitFor(t, "reconnection", func() bool { return d.count("bridge-connected") == 2 && subscribedAll(h) })
	must(h.SetPartitionStatus(e.partitions[0], "degraded"))
	n := d.count("status-change")
	waitFor(t, "the last change", func() bool { return d.count("status-change") > n || hasWord(d, `"degraded"`) })
	waitFor(t, "the second gap", func() bool { return d.count("bridge-gap") == 2 })
}

func atRest(t *testing.T, h *hmcsim.HMC, partition string) bool {
	t.Helper()
	p, err := h.Partition(partition)
	if err != nil {
		t.Fatal(err)
	}
	return !p.Busy
}

func hasWord(d *daemon, word string) bool {
	return slices.ContainsFunc(d.all(), func(e event.Event) bool { return strings.Contains(string(e.Body), word) })
}

func subscribedAll(h *hmcsim.HMC) bool { return h.Broker().Stats().Subscriptions >= 4+2 }

// wordsOf are the words of a text that tell something.
func wordsOf(texts ...string) []string {
	var words []string
	for _, text := range texts {
		for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return strings.ContainsRune(` .,:;"'<>&=%\/@`, r) }) {
			if len(word) > 4 && strings.ToLower(word) != word || strings.ContainsAny(word, "0123456789") && len(word) > 4 {
				words = append(words, word)
			}
		}
	}
	return words
}

// TestReplay captures what a daemon and an HMC say to each other, looks for whatever belongs to the
// estate in the capture, and plays it to another daemon: that makes the same events.
func TestReplay(t *testing.T) {
	t.Parallel()
	for _, name := range slices.Sorted(maps.Keys(estates)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := estates[name]
			sim, err := hmcsim.Start(hmcsim.Options{
				Name: e.console, Userid: e.userid, Password: e.password, CPCs: 2, Partitions: -1,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = sim.Close() }()
			for i, c := range sim.CPCs() {
				if err := sim.RenameCPC(c.Name, e.cpcs[i]); err != nil {
					t.Fatal(err)
				}
				if _, err := sim.CreatePartition(e.cpcs[i], e.partitions[i]); err != nil {
					t.Fatal(err)
				}
				if err := sim.StartPartition(e.partitions[i]); err != nil {
					t.Fatal(err)
				}
				waitFor(t, "started partition", func() bool { return atRest(t, sim, e.partitions[i]) })
			}
			var ids []string
			for _, p := range sim.Partitions() {
				ids = append(ids, p.ID)
			}
			r := newTape()
			original := start(t, sim, e.userid, e.password, r.tap())
			live(t, sim, &e, original)
			original.stop()
			want := original.all()

			file := captured(t, r, e.password, e.own(ids...), e.userid, "127.0.0.1")
			replayed(t, file, name != "words", want)
		})
	}
}

// tape is a recorder that knows which secrets went by.
type tape struct {
	*capture.Recorder

	mu       sync.Mutex
	sessions []string
}

func newTape() *tape { return &tape{Recorder: capture.NewRecorder(0)} }

func (r *tape) tap() watch.Tap {
	return watch.Tap{Traffic: r.Frame, Exchange: func(x hmc.Exchange) {
		r.Exchange(x)
		var session struct {
			ID         string `json:"api-session"`
			Credential string `json:"session-credential"`
		}
		if x.Operation == "logon" && json.Unmarshal(x.Answer, &session) == nil && session.ID != "" {
			r.mu.Lock()
			r.sessions = append(r.sessions, session.ID, session.Credential)
			r.mu.Unlock()
		}
	}}
}

// secrets are the ids and credentials of the sessions.
func (r *tape) secrets() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sessions)
}

// captured writes a capture, and looks for what must not be in it: a secret, and any of the names. It makes sure that it would find
// them.
func captured(t *testing.T, r *tape, password string, own []string, known ...string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "capture")
	o := capture.WriteOptions{Secrets: []string{password}, Known: known, Program: "test"}
	write(t, r.Recorder, file, o)
	secrets := append(r.secrets(), password)
	if found := leaks(t, file, slices.Concat(own, secrets, known)); len(found) > 0 {
		t.Errorf("the capture holds %q", found)
	}
	o.Names = true
	plain := filepath.Join(t.TempDir(), "plain")
	write(t, r.Recorder, plain, o)
	if found := leaks(t, plain, own); !slices.Equal(found, own) {
		t.Errorf("of %q only %q are found where names are kept: the test does not look well, or nothing happened", own, found)
	}
	if found := leaks(t, plain, secrets); len(found) > 0 {
		t.Errorf("the capture with names holds the secrets %q", found)
	}
	return file
}

// replayed plays a capture to a daemon, which has to make the events of the original.
func replayed(t *testing.T, file string, planned bool, original []event.Event) {
	t.Helper()
	keepCapture(t, file, original)
	h, err := Start(t.Context(), Options{File: file, Speed: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	again := start(t, h, hmcsim.DefaultUserid, hmcsim.DefaultPassword, watch.Tap{})
	played(t, h)
	// One more comes when it is stopped. What is missing is said below.
	for deadline := time.Now().Add(within); len(again.all()) < len(original)-1 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	again.stop()
	want, wantOthers := shape(original, planned)
	got, gotOthers := shape(again.all(), planned)
	if !slices.Equal(got, want) {
		t.Errorf("live events of the replay:\n%s\nof the original:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, text := range slices.Sorted(maps.Keys(gotOthers)) {
		if n := wantOthers[text]; n != gotOthers[text] {
			t.Errorf("%d of the replay, %d of the original: %s", gotOthers[text], n, text)
		}
		delete(wantOthers, text)
	}
	if len(wantOthers) > 0 {
		t.Errorf("the replay lacks %v", wantOthers)
	}
}

// played waits until a capture is played to its end.
func played(t *testing.T, h *HMC) {
	t.Helper()
	waitFor(t, "end of the capture", func() bool {
		select {
		case <-h.Played():
			return true
		default:
			return false
		}
	})
	if err := h.Err(); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, r *capture.Recorder, file string, o capture.WriteOptions) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(f, o); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
