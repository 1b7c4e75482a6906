package hmc_test

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

func logon(t *testing.T, c *hmc.Client) *hmc.Session {
	t.Helper()
	s, err := c.Logon(t.Context(), hmcsim.DefaultUserid, hmcsim.DefaultPassword)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// notesIn returns the names of the notes under a path.
func notesIn(t *testing.T, path string) []string {
	t.Helper()
	names, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// What a client that is gone has left on the HMC is logged off by the next logon, also where that would be one session
// too many, and no note is left of it.
func TestSessionsThatWereLeft(t *testing.T) {
	sim := hmctest.Start(t, hmcsim.Options{MaxSessions: 3})
	path := filepath.Join(t.TempDir(), "sessions", "east")
	for range 3 { // each of them is killed, and the HMC does not let the next one log off
		sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Operation: "logoff", Status: 500, Reason: 1})
		logon(t, newClient(t, sim, path))
		sim.ClearRESTFaults()
	}
	notes := notesIn(t, path)
	if sim.Sessions() != 3 || len(notes) != 3 {
		t.Fatalf("%d sessions, %d notes", sim.Sessions(), len(notes))
	}
	for _, name := range append(notes, filepath.Dir(path)) {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %v (%v)", name, info.Mode(), err)
		}
	}
	other := logon(t, newClient(t, hmctest.Start(t, hmcsim.Options{}), filepath.Join(filepath.Dir(path), "east.2")))
	s := logon(t, newClient(t, sim, path))
	if sim.Sessions() != 1 || len(notesIn(t, path+"~")) != 1 {
		t.Errorf("%d sessions, notes %v", sim.Sessions(), notesIn(t, path))
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("the session in use: %v", err)
	}
	if err := other.Ping(t.Context()); err != nil {
		t.Errorf("the session of another HMC: %v", err)
	}
	if err := s.Logoff(t.Context()); err != nil || len(notesIn(t, path+"~")) != 0 {
		t.Errorf("%v; notes %v", err, notesIn(t, path))
	}
	// The HMC had ended it: that is as good.
	s = logon(t, newClient(t, sim, path))
	sim.ExpireSessions(true)
	if err := s.Logoff(t.Context()); err != nil || len(notesIn(t, path+"~")) != 0 {
		t.Errorf("%v; notes %v", err, notesIn(t, path))
	}
}

// A session goes to no host but its own: it waits until that one is there.
func TestSessionsThatWereLeftOnAnotherHost(t *testing.T) {
	one := hmctest.Start(t, hmcsim.Options{})
	at := func(port int) string { return net.JoinHostPort("127.0.0.2", strconv.Itoa(port)) }
	two := hmctest.Start(t, hmcsim.Options{EstateOf: one, RESTAddr: at(one.RESTPort()), StompAddr: at(one.StompPort())})
	path := filepath.Join(t.TempDir(), "east")
	client := func() *hmc.Client { return newClient(t, one, path, two.Host()) }
	logon(t, client())
	c := client()
	c.NextHost()
	if _, err := c.QueryAPIVersion(t.Context()); err != nil || c.Host() != two.Host() {
		t.Fatalf("%v, host %s", err, c.Host())
	}
	one.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultDrop})
	s := logon(t, c)
	if one.Sessions() != 1 || two.Sessions() != 1 || len(notesIn(t, path)) != 2 {
		t.Errorf("%d and %d sessions, notes %v", one.Sessions(), two.Sessions(), notesIn(t, path))
	}
	for _, call := range two.Calls() {
		if call.Operation == "logoff" {
			t.Error("the token of one host went to the other")
		}
	}
	if err := s.LogoffOthers(t.Context()); err == nil || len(notesIn(t, path)) != 2 {
		t.Errorf("%v; notes %v", err, notesIn(t, path))
	}
	one.ClearRESTFaults()
	if err := s.LogoffOthers(t.Context()); err != nil {
		t.Error(err)
	}
	if one.Sessions() != 0 || two.Sessions() != 1 || len(notesIn(t, path)) != 1 {
		t.Errorf("%d and %d sessions, notes %v", one.Sessions(), two.Sessions(), notesIn(t, path))
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("the session in use: %v", err)
	}
}

// Notes that are of no use any more go, and nothing else in the directory does. A directory that cannot be written keeps
// nobody from logging on.
func TestNotesOfSessions(t *testing.T) {
	sim := hmctest.Start(t, hmcsim.Options{})
	dir := t.TempDir()
	path := filepath.Join(dir, "east")
	write := func(name, text string, age time.Duration) {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	valid := `{"host":"` + sim.Host() + `","port":` + strconv.Itoa(sim.RESTPort()) + `,"id":"x"}`
	write("east~HALF", valid[:20], 0)
	write("east~EMPTY", "", 0)
	write("east~GONE", valid, 0) // the HMC does not know it
	write("east~HOST", strings.Replace(valid, sim.Host(), "192.0.2.1", 1), 0)
	write("east~PORT", strings.Replace(valid, `"port":`, `"port":1`, 1), 0)
	write("west~NEW", valid, 29*24*time.Hour)
	write("west~OLD", valid, 31*24*time.Hour)
	write("east.yaml", "not ours", 365*24*time.Hour)
	logon(t, newClient(t, sim, path))
	var names []string
	for _, name := range notesIn(t, dir+"/") {
		names = append(names, strings.TrimPrefix(name, dir+"/"))
	}
	for _, name := range []string{"east.yaml", "east~HOST", "east~PORT", "west~NEW"} {
		if !slices.Contains(names, name) || len(names) != 5 { // and the new one
			t.Errorf("left: %v", names)
		}
	}
	if n := sim.RESTRequests()["logoff"]; n != 1 {
		t.Errorf("%d logoffs", n)
	}

	write("file", "", 0)
	logon(t, newClient(t, sim, filepath.Join(dir, "file", "east")))
}

// Nobody who has got at the directory of the notes makes the daemon write, read or log off by what is elsewhere: neither a link nor
// a pipe is followed, and of a large file no more is read than a note can have.
func TestNotesThroughLinks(t *testing.T) {
	sim := hmctest.Start(t, hmcsim.Options{})
	dir, elsewhere := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "sessions", "east")
	logon(t, newClient(t, sim, path))
	notes := notesIn(t, path)
	if len(notes) != 1 {
		t.Fatalf("notes %v", notes)
	}
	moved := filepath.Join(elsewhere, "note")
	if err := os.Rename(notes[0], moved); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(moved, path+"~LINK"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path+"~PIPE", 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(moved)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+"~LARGE", append(bytes.Repeat([]byte(" "), 1<<20), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	s := logon(t, newClient(t, sim, path)) // would hang at the pipe
	if sim.Sessions() != 2 {
		t.Errorf("%d sessions: what a link leads to was used", sim.Sessions())
	}
	if again, err := os.ReadFile(moved); err != nil || !bytes.Equal(again, text) {
		t.Errorf("what the link leads to is changed: %v", err)
	}
	if err := s.Logoff(t.Context()); err != nil {
		t.Error(err)
	}

	// A directory that is a link gets no note.
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	logon(t, newClient(t, sim, path))
	if names := notesIn(t, filepath.Join(elsewhere, "east")); len(names) != 0 {
		t.Errorf("notes elsewhere: %v", names)
	}
}
