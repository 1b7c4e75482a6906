package main

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// notedSessions are the ids of the sessions that a daemon has noted in its storage directory.
func notedSessions(t *testing.T, data string) (ids []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(data, "sessions", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			continue // it was logged off just now
		}
		if err != nil {
			t.Fatal(err)
		}
		var note struct{ ID string }
		if json.Unmarshal(text, &note) == nil {
			ids = append(ids, note.ID)
		}
	}
	return ids
}

// A daemon that is killed leaves its session on the HMC; the next one logs it off, however many there are, and an orderly
// end leaves none. What a kill leaves that falls between the HMC's answer to the logon and its note, nobody can know of.
func TestKilledDaemonsLeaveNoSession(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1, MaxSessions: 8})
	config := daemonConfig(t, dir, sim, hmcsim.DefaultPassword)
	life := func() *program {
		return start(t, nil, "--config.file="+config, "--storage.path="+data, "--web.listen-address=127.0.0.1:0")
	}
	kill := func(p *program) {
		p.signal(syscall.SIGKILL)
		<-p.exited
	}
	logons := int64(0)
	loggedOn := func() {
		logons++
		eventually(t, "logged on, and noted", func() bool {
			if sim.Logons() < logons {
				return false // asked first: what is listed before it may lack the new one
			}
			infos := sim.SessionInfos()
			return len(infos) > 0 && slices.Contains(notedSessions(t, data), infos[len(infos)-1].SessionID)
		})
	}

	// Several in a row leave several, where the HMC refuses to log them off.
	sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Operation: "logoff", Status: 500, Reason: 1})
	for range 3 {
		p := life()
		loggedOn()
		kill(p)
	}
	if n := sim.Sessions(); n != 3 || len(notedSessions(t, data)) != 3 {
		t.Fatalf("%d sessions were left, %d are noted", n, len(notedSessions(t, data)))
	}
	sim.ClearRESTFaults()

	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	early := 0
	for n := range 8 {
		p := life()
		if n%4 == 3 { // at any moment, while it starts too
			early++
			time.Sleep(time.Duration(random.Int64N(int64(300 * time.Millisecond))))
		} else {
			loggedOn()
			time.Sleep(time.Duration(random.Int64N(int64(50 * time.Millisecond))))
		}
		kill(p)
		logons = sim.Logons()
	}
	p := life()
	loggedOn()
	noted, unknown := notedSessions(t, data), 0
	for _, s := range sim.SessionInfos() {
		if !slices.Contains(noted, s.SessionID) {
			unknown++
		}
	}
	if n := sim.Sessions(); n != 1+unknown || unknown > early {
		t.Errorf("%d sessions, %d of them noted, after %d kills during a start", n, len(noted), early)
	}
	eventually(t, "the link is up", func() bool { return sim.Links() == 1 })
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if n := sim.Sessions(); n != unknown || len(notedSessions(t, data)) != 0 {
		t.Errorf("%d sessions are left, %d noted", n, len(notedSessions(t, data)))
	}
	for _, name := range []string{"sessions", "."} {
		info, err := os.Stat(filepath.Join(data, name))
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}
