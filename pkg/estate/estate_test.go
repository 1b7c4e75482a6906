package estate

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var t0 = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }

func none(string) bool { return false }

var whole = map[string]bool{ClassCPC: true, ClassPartition: true, ClassLogicalPartition: true}

// listing is what HMC h answers: "CPC1=active", and partitions as "CPC1/P1=active".
func listing(h string, seconds int, resources ...string) *Listing {
	l := &Listing{HMC: h, Asked: at(seconds), Complete: whole}
	for _, text := range resources {
		name, status, _ := strings.Cut(text, "=")
		cpc, partition, ok := strings.Cut(name, "/")
		r := Resource{URI: "/api/cpcs/" + cpc, Class: ClassCPC, Name: cpc, CPC: cpc, Status: status}
		if ok {
			uri, partition := partition, partition
			if id, name, renamed := strings.Cut(partition, ":"); renamed { // P1:NEW is P1 with another name
				uri, partition = id, name
			}
			r = Resource{URI: "/api/partitions/" + uri, Class: ClassPartition, Name: partition, CPC: cpc, CPCURI: "/api/cpcs/" + cpc, Status: status}
		}
		l.Resources = append(l.Resources, r)
	}
	return l
}

// take learns and compares.
func take(t *testing.T, e *Estate, l *Listing, now int) (told []string, again bool) {
	t.Helper()
	e.Learn(l)
	differences, again := e.Compare(l, at(now), none)
	return words(differences), again
}

func words(differences []Difference) []string {
	var told []string
	for _, d := range differences {
		was := d.Was
		text := d.Kind + " " + d.Now.Class + " " + d.Now.Name
		switch d.Kind {
		case Renamed:
			text += " was " + was.Name
		case Moved:
			text += " " + was.Status + " -> " + d.Now.Status
		}
		told = append(told, text)
	}
	return told
}

func want(t *testing.T, got []string, wanted ...string) {
	t.Helper()
	if !slices.Equal(got, wanted) {
		t.Errorf("told %q, want %q", got, wanted)
	}
}

// has says whether a partition of this name is there.
func has(e *Estate, name string) bool {
	for r := range e.All("") {
		if r.Name == name {
			return true
		}
	}
	return false
}

func uri(partition string) string { return "/api/partitions/" + partition }

func TestTheFirstListIsNoNews(t *testing.T) {
	e := New()
	told, again := take(t, e, listing("h", 0, "C=operating", "C/P=active"), 2)
	want(t, told)
	p, ok := e.Lookup(uri("P"))
	if !ok || again || p.Name != "P" || p.CPC != "C" || p.Status != "active" || p.Exact || !p.Since.Equal(at(0)) {
		t.Errorf("%+v, %v, %v", p, ok, again)
	}
}

func TestDifferences(t *testing.T) {
	e := New()
	take(t, e, listing("h", 0, "C=operating", "C/P=active", "C/Q=active", "C/R=active"), 2)
	told, again := take(t, e, listing("h", 60, "C=degraded", "C/P:NEW=active", "C/Q=stopped", "C/S=active"), 62)
	want(t, told, "moved cpc C operating -> degraded", "renamed partition NEW was P", "moved partition Q active -> stopped", "added partition S")
	if !again {
		t.Error("no other list is asked for, but R may be gone")
	}
	same := []string{"C=degraded", "C/P:NEW=active", "C/Q=stopped", "C/S=active"}
	told, again = take(t, e, listing("h", 120, same...), 122)
	want(t, told, "removed partition R")
	if again {
		t.Error("another list is asked for")
	}
	told, _ = take(t, e, listing("h", 180, same...), 182)
	want(t, told)
	if _, ok := e.Lookup(uri("R")); ok {
		t.Error("what is gone is still known")
	}
}

// What the HMC thinks of a status: as it says, else by what operators made acceptable; a list that judges otherwise is news.
func TestJudgements(t *testing.T) {
	e := New()
	judged := func(l *Listing, j ...Judgement) *Listing {
		for i := range j {
			l.Resources[i].Judged = j[i]
		}
		return l
	}
	take(t, e, listing("h", 0, "C=operating", "C/P=active", "C/Q=stopped"), 2)
	told, _ := take(t, e, judged(listing("h", 60, "C=operating", "C/P=active", "C/Q=stopped"), Acceptable, Acceptable, Unacceptable), 62)
	want(t, told) // nothing was known before
	told, _ = take(t, e, judged(listing("h", 120, "C=operating", "C/P=active", "C/Q=stopped"), Acceptable, Acceptable, Acceptable), 122)
	want(t, told, "judged partition Q")
	told, _ = take(t, e, listing("h", 180, "C=operating", "C/P=active", "C/Q=stopped"), 182)
	want(t, told) // a list that does not judge takes nothing back
	set := func(name, status string, j Judgement) Judgement {
		_, is, _ := e.SetStatus(&Resource{URI: uri(name), Class: ClassPartition, Status: status, Judged: j, Since: at(200)}, at(200))
		if stored, _ := e.Lookup(uri(name)); stored.Judged != is.Judged || is.Status == "" {
			t.Errorf("%s is stored as %+v", name, stored)
		}
		return is.Judged
	}
	for i, test := range []struct {
		acceptable []string
		status     string
		told, want Judgement
	}{
		{nil, "stopped", Unjudged, Acceptable}, // the same status, judged by the list
		{nil, "active", Unjudged, Unjudged},
		{nil, "", Unacceptable, Unacceptable},
		{nil, "active", Unjudged, Unacceptable},
		{[]string{"active", "stopped"}, "stopped", Unjudged, Acceptable},
		{[]string{"active", "stopped"}, "paused", Unjudged, Unacceptable},
		{[]string{"active", "stopped"}, "stopped", Unacceptable, Unacceptable},
		{[]string{}, "active", Unjudged, Unacceptable},
		{nil, "paused", Unjudged, Unjudged},
	} {
		e.Update(uri("Q"), ClassPartition, "Q", at(199), func(r *Resource) { r.Acceptable = test.acceptable })
		if got := set("Q", test.status, test.told); got != test.want {
			t.Errorf("%d: %+v is %d", i, test, got)
		}
	}
	e.Update(uri("Q"), ClassPartition, "Q", at(199), func(r *Resource) { r.Acceptable = []string{"active"} })
	told, _ = take(t, e, listing("h", 300, "C=operating", "C/P=active", "C/Q=stopped"), 302)
	want(t, told, "moved partition Q paused -> stopped")
	if q, _ := e.Lookup(uri("Q")); q.Judged != Unacceptable {
		t.Errorf("after a list without judgements: %+v", q)
	}
}

// A system is what it was until another one is loaded; how many of a sysplex are down counts those whose status is known.
func TestSystems(t *testing.T) {
	was := System{OSName: "SY1", OSLevel: "V2.5", Sysplex: "P", IPLToken: "1", LoadAddress: "A"}
	for _, test := range []struct{ told, want System }{
		{System{}, was},
		{System{OSName: "SY1", IPLToken: "2"}, System{OSName: "SY1", OSLevel: "V2.5", Sysplex: "P", IPLToken: "2", LoadAddress: "A"}},
		{System{OSName: "LNX", OSLevel: "6.4"}, System{OSName: "LNX", OSLevel: "6.4"}},
		{System{Sysplex: "Q"}, System{OSName: "SY1", OSLevel: "V2.5", Sysplex: "Q", IPLToken: "1", LoadAddress: "A"}},
	} {
		if got := was.Merge(test.told); got != test.want {
			t.Errorf("%+v: %+v", test.told, got)
		}
	}
	e := New()
	take(t, e, listing("h", 0, "C=operating", "C/P=active", "C/Q=active", "C/R=active", "C/S=active"), 2)
	for _, name := range []string{"P", "Q", "R", "NEW"} {
		e.Update(uri(name), ClassPartition, name, time.Time{}, func(r *Resource) { r.System.Sysplex = "PLEX" })
	}
	away := func(name string) time.Time { r, _ := e.Lookup(uri(name)); return r.Away }
	set := func(name, status string, second int) {
		e.SetStatus(&Resource{URI: uri(name), Class: ClassPartition, Status: status, Since: at(second)}, at(second))
	}
	set("P", "stopping", 10)
	set("P", "stopped", 11)
	set("Q", "degraded", 12)
	if down, off, all := e.Members("PLEX"); down != 1 || off != 0 || all != 3 || !away("P").Equal(at(10)) || !away("Q").IsZero() {
		t.Errorf("%d of %d, away since %s, %s", down, all, away("P"), away("Q"))
	}
	told, _ := take(t, e, listing("h", 60, "C=operating", "C/P=stopped", "C/Q=degraded", "C/R=terminated", "C/S=active", "C/NEW=active"), 62)
	want(t, told, "moved partition R active -> terminated")
	if down, off, all := e.Members("PLEX"); down != 2 || off != 0 || all != 4 || !away("R").Equal(at(62)) {
		t.Errorf("%d of %d", down, all)
	}
	e.SetStatus(&Resource{URI: uri("P"), Class: ClassPartition, Judged: Acceptable, Since: at(70)}, at(70))
	if down, off, all := e.Members("PLEX"); down != 1 || off != 1 || all != 4 {
		t.Errorf("%d of %d, %d off", down, all, off)
	}
	// What is learned without a notification does not hide what a list tells.
	e.Update(uri("S"), ClassPartition, "S", time.Time{}, func(r *Resource) { r.System.OSName = "X" })
	told, _ = take(t, e, listing("h", 70, "C=operating", "C/P=stopped", "C/Q=degraded", "C/R=terminated", "C/S=paused", "C/NEW=active"), 72)
	want(t, told, "moved partition S active -> paused")
	e.Learn(listing("h", 80, "C=operating", "C/LATE=active"))
	e.Update(uri("LATE"), ClassPartition, "LATE", time.Time{}, func(r *Resource) { r.System.OSName = "X" })
	differences, _ := e.Compare(listing("h", 80, "C=operating", "C/LATE=active"), at(82), none)
	if told := words(differences); !slices.Contains(told, "added partition LATE") {
		t.Errorf("told %q", told)
	}
}

// What is held back is stored once it is not.
func TestHeldBackFromTheDisk(t *testing.T) {
	e := New()
	take(t, e, listing("h", 0, "C=operating", "C/P=active"), 2)
	stored := func(hold bool) (uris []string) {
		e.Unstored(func(u string) bool { return hold && u == uri("P") }, func(u string, _ []byte) { uris = append(uris, u) })
		slices.Sort(uris)
		return uris
	}
	want(t, stored(true), "/api/cpcs/C")
	want(t, stored(true))
	want(t, stored(false), uri("P"))
	want(t, stored(false))
}

// What a notification says once more is stored already.
func TestTheSameIsStoredOnce(t *testing.T) {
	e := New()
	status := func(status string, judged Judgement, seconds int) (stored []string) {
		e.SetStatus(&Resource{URI: uri("P"), Class: ClassPartition, Name: "P", Status: status, Judged: judged, Since: at(seconds)}, at(seconds))
		e.Unstored(none, func(u string, _ []byte) { stored = append(stored, u) })
		return stored
	}
	want(t, status("active", Unjudged, 1), uri("P"))
	want(t, status("active", Unjudged, 2))
	want(t, status("active", Acceptable, 3), uri("P"))
	want(t, status("stopped", Unjudged, 4), uri("P"))
	e.Remove(uri("P"), at(5))
	want(t, status("stopped", Unjudged, 6), uri("P"))
}

// A class is listed from its first list on, also where that lacks some of it.
func TestListed(t *testing.T) {
	e := New()
	e.SetStatus(&Resource{URI: uri("P"), Class: ClassPartition, Name: "P", Status: "active", Since: at(1)}, at(1))
	listed := func() (hmcs []string) {
		for _, hmc := range []string{"a", "b", "c"} {
			if e.Listed(hmc, ClassPartition) {
				hmcs = append(hmcs, hmc)
			}
		}
		return hmcs
	}
	want(t, listed())
	e.Learn(listing("a", 2, "C=operating", "C/Q=active"))
	want(t, listed(), "a")
	l := listing("b", 3, "C=operating", "C/P=active")
	l.Complete = map[string]bool{ClassCPC: true}
	take(t, e, l, 4)
	want(t, listed(), "a", "b")
	take(t, e, listing("c", 5, "C=operating"), 6)
	want(t, listed(), "a", "b", "c")
}

// What notifications told while the HMC made its list is newer than the list, or as new.
func TestNotificationsWhileListing(t *testing.T) {
	e := New()
	take(t, e, listing("h", 0, "C=operating", "C/P=active", "C/Q=active", "C/R=active"), 2)
	l := listing("h", 60, "C=operating", "C/P=active", "C/Q=active", "C/R=active", "C/GONE=active")
	e.SetStatus(&Resource{URI: uri("P"), Class: ClassPartition, Name: "P", Status: "stopped", Since: at(61)}, at(61))
	e.Update(uri("Q"), ClassPartition, "", at(61), func(r *Resource) { r.Name = "Q2" })
	e.Remove(uri("R"), at(61))
	told, again := take(t, e, l, 63)
	want(t, told, "added partition GONE")
	if !again {
		t.Error("no other list is asked for, but what differs may be wrong")
	}
	p, _ := e.Lookup(uri("P"))
	q, _ := e.Lookup(uri("Q"))
	if p.Status != "stopped" || q.Name != "Q2" || has(e, "R") {
		t.Errorf("%+v %+v, R is there: %v", p, q, has(e, "R"))
	}
	told, again = take(t, e, listing("h", 120, "C=operating", "C/P=stopped", "C/Q:Q2=active", "C/GONE=active"), 122)
	want(t, told)
	if again {
		t.Error("another list is asked for")
	}
}

// A new partition that a notification told of is told once.
func TestAnnounced(t *testing.T) {
	e := New()
	take(t, e, listing("h", 0, "C=operating", "C/P=active"), 2)
	e.Announce(uri("Q"), at(10))
	e.Announce(uri("P"), at(10)) // the HMC rebuilds its inventory
	told, _ := take(t, e, listing("h", 11, "C=operating", "C/P=active", "C/Q=stopped"), 13)
	want(t, told)
	// Also if its status came before the list.
	e.Announce(uri("R"), at(20))
	e.SetStatus(&Resource{URI: uri("R"), Class: ClassPartition, Name: "R", Status: "active", Since: at(20)}, at(20))
	told, _ = take(t, e, listing("h", 21, "C=operating", "C/P=active", "C/Q=stopped", "C/R=active"), 23)
	want(t, told)
	if r, _ := e.Lookup(uri("R")); r.CPC != "C" {
		t.Errorf("%+v", r)
	}
}

// An HMC that has started announces everything there is while it is listed. That says nothing of statuses and names: what the list
// says of them counts, and does not wait for another one. What it lacks may be listed later.
func TestEverythingIsAnnouncedWhileItIsListed(t *testing.T) {
	e := New()
	take(t, e, listing("h", 0, "C=operating", "C/P=active", "C/Q=active", "C/R=active"), 2)
	l := listing("h", 10, "C=no-power", "C/P=stopped", "C/Q:Q2=active")
	e.Learn(l)
	for _, name := range []string{"C", "P", "Q", "R"} {
		e.Announce(uri(name), at(11))
	}
	differences, again := e.Compare(l, at(13), none)
	want(t, words(differences), "moved cpc C operating -> no-power", "moved partition P active -> stopped", "renamed partition Q2 was Q")
	if !again || !has(e, "R") {
		t.Error("R is not looked for again")
	}
}

// An HMC that has just started, or whose CPC does not communicate, may list less than there is.
func TestLessThanThereIs(t *testing.T) {
	e := New()
	all := []string{"C=operating", "C/P=active", "C/Q=active"}
	take(t, e, listing("h", 0, all...), 2)
	told, again := take(t, e, listing("h", 60), 62)
	want(t, told)
	if !again {
		t.Error("no other list is asked for")
	}
	told, _ = take(t, e, listing("h", 70, all...), 72)
	want(t, told)
	told, _ = take(t, e, listing("h", 80, "C=not-communicating"), 82)
	want(t, told, "moved cpc C operating -> not-communicating")
	for i := range 3 {
		told, again = take(t, e, listing("h", 90+i, "C=not-communicating"), 92+i)
		want(t, told)
		if again {
			t.Error("another list is asked for")
		}
	}
	told, _ = take(t, e, listing("h", 100, all...), 102)
	want(t, told, "moved cpc C not-communicating -> operating")
}

// What is told of a resource after it was said to be gone still has its names, and brings it back: an HMC that builds its inventory
// again tells of both.
func TestRemovedAndBack(t *testing.T) {
	e := New()
	take(t, e, listing("h", 0, "C=operating", "C/P=active", "C/Q=active"), 2)
	for range 2 {
		e.Remove(uri("P"), at(10))
	}
	e.Remove(uri("Q"), at(10))
	if has(e, "P") || has(e, "Q") {
		t.Error("it is still there")
	}
	if p, ok := e.Lookup(uri("P")); !ok || p.Name != "P" || p.CPC != "C" {
		t.Errorf("the names of what is gone: %+v, %v", p, ok)
	}
	e.SetStatus(&Resource{URI: uri("P"), Class: ClassPartition, Name: "", Status: "stopped", Since: at(11)}, at(11))
	e.Announce(uri("Q"), at(11))
	p, _ := e.Lookup(uri("P"))
	if !has(e, "P") || !has(e, "Q") || p.Name != "P" || p.CPC != "C" || p.Status != "stopped" {
		t.Errorf("%+v", p)
	}
	told, _ := take(t, e, listing("h", 20, "C=operating", "C/P=stopped", "C/Q=active"), 22)
	want(t, told)
	// Gone, and nothing more is told, but it is listed: it was made again.
	e.Remove(uri("P"), at(30))
	told, _ = take(t, e, listing("h", 40, "C=operating", "C/P=stopped", "C/Q=active"), 42)
	want(t, told, "added partition P")
	// Of what was never known nothing is.
	e.Remove(uri("X"), at(45))
	e.Announce(uri("X"), at(46))
	if x, ok := e.Lookup(uri("X")); ok || has(e, "") {
		t.Errorf("%+v", x)
	}
	// In the end its name is forgotten.
	e.Remove(uri("P"), at(50))
	e.Remove(uri("Q"), at(50).Add(2*goneFor))
	if _, ok := e.Lookup(uri("P")); ok {
		t.Error("the name of what is gone is known for ever")
	}
}

// A class that could not be listed stays as it is known.
func TestPartOfAList(t *testing.T) {
	e := New()
	take(t, e, listing("h", 0, "C=operating", "C/P=active"), 2)
	l := listing("h", 60, "C=degraded")
	l.Complete = map[string]bool{ClassCPC: true}
	told, _ := take(t, e, l, 62)
	want(t, told, "moved cpc C operating -> degraded")
	if _, ok := e.Lookup(uri("P")); !ok {
		t.Error("P is not known any more")
	}
}

// A CPC has one name, whenever its partitions were listed.
func TestNameOfTheCPC(t *testing.T) {
	e := New()
	take(t, e, listing("h", 0, "C=operating", "C/P=active"), 2)
	e.Update("/api/cpcs/C", ClassCPC, "", at(5), func(r *Resource) { r.Name = "M90" })
	if p, _ := e.Lookup(uri("P")); p.CPC != "M90" {
		t.Errorf("%+v", p)
	}
	if c, _ := e.Lookup("/api/cpcs/C"); c.CPC != "M90" {
		t.Errorf("%+v", c)
	}
}

func TestStatus(t *testing.T) {
	e := New()
	take(t, e, listing("h", 0, "C=operating", "C/P=active"), 2)
	was, _, known := e.SetStatus(&Resource{URI: uri("P"), Class: ClassPartition, Name: "P", Status: "stopped", Since: at(9)}, at(10))
	if !known || was.Status != "active" || was.Exact {
		t.Errorf("before: %+v", was)
	}
	e.SetStatus(&Resource{URI: uri("P"), Class: ClassPartition, Name: "P", Status: "stopped", Since: at(19)}, at(20))
	if p, _ := e.Lookup(uri("P")); !p.Exact || !p.Since.Equal(at(9)) {
		t.Errorf("a repetition changes since when: %+v", p)
	}
	if was, _, known = e.SetStatus(&Resource{URI: uri("NEW"), Class: ClassPartition, Name: "NEW", Status: "active", Since: at(9)}, at(10)); known {
		t.Errorf("before: %+v", was)
	}
}

// What could not be stored has not happened, as far as the estate is concerned: it will be found when states are compared.
func TestLoadAfterAFailure(t *testing.T) {
	e := New()
	take(t, e, listing("h", 0, "C=operating", "C/P=active", "C/Q=active"), 2)
	disk := map[string][]byte{}
	e.Unstored(none, func(uri string, value []byte) { disk[uri] = value })
	e.SetStatus(&Resource{URI: uri("P"), Class: ClassPartition, Name: "P", Status: "stopped", Since: at(9)}, at(9))
	e.SetStatus(&Resource{URI: uri("P"), Class: ClassPartition, Name: "P", Status: "starting", Since: at(10)}, at(10))
	e.Remove(uri("Q"), at(11))
	e.SetStatus(&Resource{URI: uri("R"), Class: ClassPartition, Name: "R", Status: "active", Since: at(12)}, at(12))
	e.Unstored(none, func(string, []byte) {}) // on its way, and refused
	if damaged := e.Load(time.Time{}, valuesOf(disk)); damaged != 0 {
		t.Errorf("%d damaged", damaged)
	}
	told, _ := take(t, e, listing("h", 60, "C=operating", "C/P=starting", "C/R=active"), 62)
	want(t, told, "moved partition P active -> starting", "added partition R")
	told, _ = take(t, e, listing("h", 70, "C=operating", "C/P=starting", "C/R=active"), 72)
	want(t, told, "removed partition Q")
}

// A notification about a resource that has just been listed for the first time is stored with what is known of the resource: else
// nothing would show, after a failure or a crash, that its status has changed since.
func TestNotificationAboutWhatIsNew(t *testing.T) {
	e := New()
	take(t, e, listing("h", 0, "C=operating"), 2)
	e.Learn(listing("h", 10, "C=operating", "C/P=active"))
	e.SetStatus(&Resource{URI: uri("P"), Class: ClassPartition, Name: "P", Status: "degraded", Since: at(11)}, at(11))
	disk := map[string][]byte{}
	e.Unstored(none, func(uri string, value []byte) { disk[uri] = value })
	e.Load(at(12), valuesOf(disk))
	told, _ := take(t, e, listing("h", 20, "C=operating", "C/P=active"), 22)
	want(t, told, "moved partition P degraded -> active")
}

// A list that was asked for before what is known was loaded is not the first one, although it is the first that is compared.
func TestFirstListFromBeforeALoad(t *testing.T) {
	e := New()
	l := listing("h", 0, "C=operating", "C/P=active")
	e.Learn(l)
	e.Load(at(1), valuesOf(nil)) // it could not be stored
	if differences, again := e.Compare(l, at(2), none); len(differences) != 0 || !again {
		t.Errorf("%v, again: %v", words(differences), again)
	}
	told, _ := take(t, e, listing("h", 3, "C=operating", "C/P=active"), 4)
	want(t, told)
}

// What a notification was about between its first list and the comparison has been told of: it is no news then, nor after a
// restart.
func TestAnnouncedAfterItWasListed(t *testing.T) {
	for name, notify := range map[string]func(e *Estate){
		"announced":             func(e *Estate) { e.Announce(uri("P"), at(11)) },
		"removed and announced": func(e *Estate) { e.Remove(uri("P"), at(11)); e.Announce(uri("P"), at(12)) },
		"removed, and it has a status": func(e *Estate) {
			e.Remove(uri("P"), at(11))
			e.SetStatus(&Resource{URI: uri("P"), Class: ClassPartition, Name: "P", Status: "active", Since: at(12)}, at(12))
		},
	} {
		e := New()
		take(t, e, listing("h", 0, "C=operating", "C/Q=active"), 2)
		l := listing("h", 10, "C=operating", "C/Q=active", "C/P=active")
		e.Learn(l)
		notify(e)
		if differences, _ := e.Compare(l, at(13), none); len(differences) != 0 {
			t.Errorf("%s: %v", name, words(differences))
		}
		disk := map[string][]byte{}
		e.Unstored(none, func(uri string, value []byte) { disk[uri] = value })
		again := New()
		again.Load(at(14), valuesOf(disk))
		if told, _ := take(t, again, listing("h", 20, "C=operating", "C/Q=active", "C/P=active"), 22); len(told) != 0 {
			t.Errorf("%s, then a restart: %v", name, told)
		}
	}
}

func valuesOf(disk map[string][]byte) func(fn func(uri string, value []byte) bool) {
	return func(fn func(uri string, value []byte) bool) {
		for uri, value := range disk {
			if !fn(uri, value) {
				return
			}
		}
	}
}

// Of many resources those are found whose system waits for an answer, as All has them.
func TestWaiting(t *testing.T) {
	e := New()
	take(t, e, listing("a", 0, "C=operating", "C/P=active", "C/Q=active", "C/R=active"), 2)
	for _, name := range []string{"R", "P"} {
		e.Update("/api/partitions/"+name, ClassPartition, name, at(3), func(r *Resource) { r.Waiting = []Message{{HMC: "a", Text: name}} })
	}
	var got []string
	for r := range e.Waiting() {
		got = append(got, r.CPC+"/"+r.Name+" "+r.Waiting[0].Text)
	}
	if !slices.Equal(got, []string{"C/P P", "C/R R"}) {
		t.Errorf("%q wait", got)
	}
}

// Two HMCs see the same machines, but not each userid sees all of them.
func TestTwoHMCs(t *testing.T) {
	e := New()
	take(t, e, listing("a", 0, "C=operating", "C/P=active", "C/Q=active"), 2)
	told, _ := take(t, e, listing("b", 1, "C=operating", "C/P=active", "C/R=active"), 3)
	want(t, told)
	var a, b []string
	for r := range e.All("a") {
		a = append(a, r.Name)
	}
	for r := range e.All("b") {
		b = append(b, r.Name)
	}
	if !slices.Equal(a, []string{"C", "P", "Q"}) || !slices.Equal(b, []string{"C", "P", "R"}) || e.Len() != 4 {
		t.Errorf("a lists %q, b %q of %d", a, b, e.Len())
	}
	// a may not see P any more, b does.
	l := listing("a", 60, "C=operating", "C/Q=active")
	e.Learn(l)
	for range 2 {
		differences, _ := e.Compare(l, at(62), func(h string) bool { return h == "b" })
		want(t, words(differences))
		l.Asked = at(65)
	}
	// P is gone, and b is not in sight.
	take(t, e, listing("b", 70, "C=operating", "C/R=active"), 72)
	told, _ = take(t, e, listing("b", 75, "C=operating", "C/R=active"), 77)
	want(t, told, "removed partition P")
	// One HMC tells what the other has told.
	e.SetStatus(&Resource{URI: uri("R"), Class: ClassPartition, Name: "R", Status: "stopped", Since: at(80)}, at(80))
	told, _ = take(t, e, listing("b", 90, "C=operating", "C/R=stopped"), 92)
	want(t, told)
}

// What is stored is what comes back; what is not told yet is not stored, for else nobody would tell it after a crash.
func TestStored(t *testing.T) {
	e := New()
	disk := map[string][]byte{}
	store := func() {
		e.Unstored(none, func(uri string, value []byte) {
			if value == nil {
				delete(disk, uri)
			} else {
				disk[uri] = value
			}
		})
	}
	restart := func() {
		e = New()
		if damaged := e.Load(time.Time{}, valuesOf(disk)); damaged != 0 {
			t.Fatalf("%d damaged of %q", damaged, disk)
		}
	}
	take(t, e, listing("h", 0, "C=operating", "C/P=active", "C/Q=active"), 2)
	e.Update(uri("Q"), ClassPartition, "Q", at(8), func(r *Resource) { r.Acceptable = []string{} })
	e.SetStatus(&Resource{URI: uri("P"), Class: ClassPartition, Name: "P", Status: "stopped", Judged: Acceptable, Since: at(9)}, at(9))
	store()
	e.Unstored(none, func(uri string, _ []byte) { t.Errorf("%s is to be stored again", uri) })
	restart()
	if p, _ := e.Lookup(uri("P")); p.Status != "stopped" || !p.Exact || !p.Since.Equal(at(9)) || p.CPC != "C" || p.Name != "P" || p.Judged != Acceptable || p.Acceptable != nil {
		t.Errorf("%+v", p)
	}
	if q, _ := e.Lookup(uri("Q")); q.Judged != Unacceptable || q.Acceptable == nil {
		t.Errorf("nothing is acceptable for Q, but it is %+v", q)
	}
	l := listing("h", 60, "C=operating", "C/P=stopped", "C/NEW=active")
	e.Learn(l)
	store()
	restart() // before it was compared
	told, _ := take(t, e, l, 62)
	want(t, told, "added partition NEW")
	told, _ = take(t, e, listing("h", 70, "C=operating", "C/P=stopped", "C/NEW=active"), 72)
	want(t, told, "removed partition Q")
	store()
	if len(disk) != 3 {
		t.Errorf("stored: %q", slices.Sorted(maps.Keys(disk)))
	}
	for _, bad := range []string{"", "{", "[]", `{"class":"nic"}`} {
		if damaged := e.Load(time.Time{}, valuesOf(map[string][]byte{"/api/x": []byte(bad)})); damaged != 1 || e.Len() != 0 {
			t.Errorf("%q was taken", bad)
		}
	}
}

func BenchmarkSetStatus(b *testing.B) {
	e := New()
	l := &Listing{HMC: "h", Asked: t0, Complete: whole}
	for i := range 10_000 {
		l.Resources = append(l.Resources, Resource{URI: fmt.Sprintf("/api/partitions/%d", i), Class: ClassPartition, Name: fmt.Sprint(i), Status: "active"})
	}
	e.Learn(l)
	e.Compare(l, t0, none)
	statuses := [2]string{"active", "stopped"}
	for i := 0; b.Loop(); i++ {
		e.SetStatus(&Resource{URI: l.Resources[i%10_000].URI, Class: ClassPartition, Name: "", Status: statuses[i/10_000%2], Since: t0}, t0)
	}
}

// A listing that was asked for before what is stored was loaded may be older than what notifications have reported: it makes
// no difference, and another one is made.
func TestListingFromBeforeALoad(t *testing.T) {
	at := func(seconds int) time.Time { return time.Unix(1_800_000_000+int64(seconds), 0) }
	disk := make(map[string][]byte)
	e := New()
	listing := func(asked int) *Listing {
		return &Listing{HMC: "a", Asked: at(asked), Complete: map[string]bool{ClassPartition: true}, Resources: []Resource{
			{URI: "/api/partitions/1", Class: ClassPartition, Name: "P1", Status: "active"},
			{URI: "/api/partitions/2", Class: ClassPartition, Name: "P2", Status: "active"},
		}}
	}
	compare := func(l *Listing) ([]Difference, bool) {
		e.Learn(l)
		return e.Compare(l, at(100), func(string) bool { return false })
	}
	compare(listing(0))
	old := listing(10)
	e.SetStatus(&Resource{URI: "/api/partitions/1", Class: ClassPartition, Name: "P1", Status: "stopped", Since: at(11)}, at(11))
	e.Remove("/api/partitions/2", at(11))
	e.Unstored(none, func(uri string, value []byte) {
		if value != nil {
			disk[uri] = value
		}
	})
	e.Load(at(12), valuesOf(disk)) // something else could not be stored
	if differences, again := compare(old); len(differences) != 0 || !again {
		t.Errorf("differences %+v, again: %v", differences, again)
	}
	if differences, _ := compare(listing(20)); len(differences) != 2 {
		t.Errorf("differences %+v", differences)
	}
}

// What was activated and does not operate yet is starting, until it has another status; what has stopped is not. A restart does
// not change that, nor does a clock that is behind.
func TestStarting(t *testing.T) {
	e := New()
	set := func(class, u, status string, second int) {
		e.SetStatus(&Resource{URI: u, Class: class, Name: u, Status: status, Since: at(-3600)}, at(second))
	}
	starting := func(second int, wanted ...string) {
		t.Helper()
		var uris []string
		for _, r := range e.Starting(at(second)) {
			uris = append(uris, r.URI)
		}
		want(t, uris, wanted...)
	}
	const lpar, cpc = "/api/logical-partitions/l", "/api/cpcs/c"
	set(ClassLogicalPartition, "/api/logical-partitions/first", "not-operating", 0)
	set(ClassLogicalPartition, lpar, "not-activated", 0)
	set(ClassCPC, cpc, "no-power", 0)
	set(ClassLogicalPartition, lpar, "not-operating", 10)
	set(ClassCPC, cpc, "not-operating", 20)
	starting(10)
	starting(11, lpar)
	set(ClassLogicalPartition, lpar, "not-operating", 15) // once more
	starting(21, cpc, lpar)
	values := make(map[string][]byte)
	e.Unstored(none, func(u string, value []byte) { values[u] = value })
	e = New()
	e.Load(at(5), func(fn func(string, []byte) bool) {
		for u, value := range values {
			fn(u, value)
		}
	})
	starting(6, cpc, lpar)
	set(ClassLogicalPartition, lpar, "operating", 30)
	starting(100, cpc)
	set(ClassLogicalPartition, lpar, "not-operating", 40)
	starting(100, cpc)
}

// What is not listed belongs to a CPC too, under the name that this has.
func TestPlaces(t *testing.T) {
	e := New()
	const adapter = "/api/adapters/a"
	if _, _, known := e.PlaceOf(adapter); known {
		t.Error("known before anybody has told")
	}
	e.Place(adapter, "OSD", "/api/cpcs/C")
	if name, cpc, known := e.PlaceOf(adapter); name != "OSD" || cpc != "" || !known {
		t.Errorf("%q on %q, %v", name, cpc, known)
	}
	take(t, e, listing("h", 0, "C=operating"), 2)
	if _, cpc, _ := e.PlaceOf(adapter); cpc != "C" {
		t.Errorf("on %q", cpc)
	}
	for u, on := range map[string]bool{
		adapter: true, "/api/storage-groups/g": true, uri("P"): true, "/api/cpcs/C": false, "/api/adapters/": false,
		"/api/adapters/a/storage-ports/0": false, "/api/users/u": false, "/api/console": false, "": false,
	} {
		if OnCPC(u) != on {
			t.Errorf("%q: %v", u, !on)
		}
	}
}
