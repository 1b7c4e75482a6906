package watch

import (
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// A list that waits to be compared is compared before there is another one, however long requests have waited for the budget: where
// much changes, each would take the place of the one before, and nothing would ever be compared.
func TestAListIsComparedBeforeTheNext(t *testing.T) {
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 2})
	tlsConfig := sim.CA().ClientTLS()
	tlsConfig.ServerName = "localhost"
	c, err := hmc.New(hmc.Options{Hosts: []string{sim.Host()}, Port: sim.RESTPort(), TLS: tlsConfig, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	session, err := c.Logon(t.Context(), hmcsim.DefaultUserid, hmcsim.DefaultPassword)
	if err != nil {
		t.Fatal(err)
	}
	s := newTestSupervisor(t)
	s.session.API = session
	k := newKeeper(s, newLink(t), new(logon.Offer), nil)
	s.source.keeper.Store(k)
	s.source.update(func(now *state) { now.up(k.link) })
	l := &k.lister
	l.listAll(t.Context())
	asked := l.list.Asked
	l.wanted, l.last, l.compareAt = true, l.last.Add(-time.Hour), time.Now()
	l.work(t.Context())
	if !l.done(asked) || l.list == nil || !l.list.Asked.After(asked) {
		t.Errorf("compared %t, the next list: %+v", l.done(asked), l.list)
	}
}
