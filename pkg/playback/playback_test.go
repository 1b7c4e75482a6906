package playback

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
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
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/secret"
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
	events string
	cancel context.CancelFunc
	done   chan error
	once   sync.Once
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
	d := &daemon{t: t, events: filepath.Join(dir, "events"), cancel: cancel, done: make(chan error, 1)}
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
	var all []event.Event
	for line := range bytes.Lines(data) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var e event.Event
		if err := json.Unmarshal(line, &e); err != nil {
			d.t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// shape is what of an event does not depend on names: live events in their order, others counted, as
// they come when the HMC was asked. Whether a change was planned depends on names where these are words
// of the API: what an audit log says of them is not known by its words then.
func shape(all []event.Event, planned bool) (live []string, others map[string]int) {
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
		text := fmt.Sprintf("%s %s %s %s %d planned=%v repeat=%v%s", e.Type, e.Origin, class, e.Severity,
			len(event.String(event.Member(e.Body, "message-text"))), e.Planned && planned, e.Repeat, words)
		if e.Origin == "live" {
			live = append(live, text)
		} else {
			others[text]++
		}
	}
	return live, others
}

// estate is what a place calls its own.
type estate struct {
	console, userid, password string
	cpcs, partitions          []string
	texts                     []string
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
	count := func(kind string) int {
		n := 0
		for _, ev := range d.all() {
			if ev.Type == kind {
				n++
			}
		}
		return n
	}
	waitFor(t, "connection", func() bool { return count("bridge-connected") == 1 })
	waitFor(t, "channels", func() bool { return h.Delivered()["security"] >= 0 && subscribedAll(h) })
	for i, text := range e.texts {
		_, err := h.OSMessages(e.partitions[i], text, text+" again")
		must(err)
	}
	waitFor(t, "OS messages", func() bool { return count("os-message") >= 2*len(e.texts) })
	h.LogEntries("audit", hmcsim.LogEntry{
		EventID: "1234", User: e.userid, Message: "User " + e.userid + " has deactivated " + e.partitions[0] + " from 10.77.21.5",
	})
	waitFor(t, "an entry", func() bool { return count("log-entry") > 0 })
	must(h.StopPartition(e.partitions[0]))
	waitFor(t, "stopped partition", func() bool { return atRest(t, h, e.partitions[0]) })
	must(h.StartPartition(e.partitions[0]))
	waitFor(t, "started partition", func() bool { return atRest(t, h, e.partitions[0]) })
	must(h.RenamePartition(e.partitions[1], e.partitions[1]+"N"))
	must(h.SetCPCStatus(e.cpcs[0], "service-required"))
	before := count("status-change")
	waitFor(t, "status changes", func() bool { return count("status-change") >= max(before, 3) })
	h.SkipSequence(3)
	must(h.SetCPCStatus(e.cpcs[0], "operating"))
	waitFor(t, "gap", func() bool { return count("bridge-gap") > 0 })
	h.Broker().DropLinks()
	waitFor(t, "reconnection", func() bool { return count("bridge-connected") == 2 && subscribedAll(h) })
	must(h.SetPartitionStatus(e.partitions[0], "degraded"))
	n := count("status-change")
	waitFor(t, "the last change", func() bool { return count("status-change") > n || hasWord(d, `"degraded"`) })
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

// leaks returns each of the words that a file holds, in whatever form.
func leaks(t *testing.T, file string, words []string) []string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(zip)
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{string(data), string(plain)}
	var found []string
	for _, word := range words {
		forms := []string{
			word, strings.ToLower(word), strings.ToUpper(word), hex.EncodeToString([]byte(word)), strings.ReplaceAll(word, "-", ""),
			strings.Trim(base64.StdEncoding.EncodeToString([]byte(word)), "="),
		}
		for _, text := range texts {
			if slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(text, form) }) || secret.New(word).In(text) {
				found = append(found, word)
			}
		}
	}
	return found
}

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
	for _, name := range slices.Sorted(maps.Keys(estates)) {
		t.Run(name, func(t *testing.T) {
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
			r := capture.NewRecorder(0)
			var secrets []string
			original := start(t, sim, e.userid, e.password, watch.Tap{Exchange: r.Exchange, Traffic: r.Frame})
			live(t, sim, &e, original)
			original.stop()
			want, wantOthers := shape(original.all(), name != "words")

			file := filepath.Join(t.TempDir(), "capture")
			write(t, r, file, capture.WriteOptions{Secrets: []string{e.password}, Known: []string{e.userid, "127.0.0.1"}, Program: "test"})
			own := slices.Concat(e.cpcs, e.partitions, ids, secrets, []string{e.console, e.userid, e.password, "127.0.0.1", "10.77.21.5"}, wordsOf(e.texts...))
			if found := leaks(t, file, own); len(found) > 0 {
				t.Errorf("the capture holds %q", found)
			}

			h, err := Start(Options{File: file, Speed: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = h.Close() }()
			again := start(t, h, hmcsim.DefaultUserid, hmcsim.DefaultPassword, watch.Tap{})
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
			for deadline := time.Now().Add(within / 9); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
				if got, _ := shape(again.all(), name != "words"); len(got) >= len(want) { // else it is said below what is missing
					break
				}
			}
			again.stop()
			got, gotOthers := shape(again.all(), name != "words")
			if !slices.Equal(got, want) {
				t.Errorf("live events of the replay:\n%s\nof the original:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if !maps.Equal(gotOthers, wantOthers) {
				t.Errorf("other events of the replay: %v\nof the original: %v", gotOthers, wantOthers)
			}
		})
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
