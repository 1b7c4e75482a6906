package ha

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cluster"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
)

// A connection that a server ends for good, as the client library takes it, is made anew: servers that
// allow smaller messages from now on do so with the first that is too large.
func TestConnectionEndedForGood(t *testing.T) {
	c := newConsumer()
	var options *server.Options
	s, url := natscluster.SingleServer(t, func(o *server.Options) { options = o })
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", CPCs: 1, Partitions: 4})
	hook := httptest.NewServer(c)
	t.Cleanup(hook.Close)
	n := start(t, fmt.Sprintf("hmcs:\n%s\nsinks:\n%s\nstorage: {jetstream: {urls: [%q], name: x, replicas: 1}}\nha: {lease_ttl: 5s}\n",
		hmctest.Entry(t, sim, ""), fmt.Sprintf(slowAndFast, hook.URL), url))
	eventually(t, "it leads", n.leads)

	lower := options.Clone()
	lower.MaxPayload = cluster.LeastPayload
	if err := s.ReloadOptions(lower); err != nil {
		t.Fatal(err)
	}
	p := sim.Partitions()[0]
	sim.Publish(hmcsim.TopicObject, []hmcsim.Header{
		{Name: "notification-type", Value: "property-change"},
		{Name: "class", Value: p.Class},
		{Name: "name", Value: p.Name},
		{Name: "object-id", Value: p.ID},
		{Name: "object-uri", Value: p.URI},
		{Name: "property-names", Value: " description "},
	}, fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":null,"new-value":%q}]}`, strings.Repeat("x", 700<<10)))
	const said = "the connection to the NATS cluster was ended, and is made anew"
	eventually(t, "it is said", func() bool { return strings.Contains(n.logs.String(), said) })
	eventually(t, "it leads again", n.leads)
	mark := publish(sim, 1)
	eventually(t, "it delivers", func() bool { return c.has("/fast", mark) })
	if got := strings.Count(n.logs.String(), said); got != 1 || !strings.Contains(n.logs.String(), "Maximum Payload") {
		t.Errorf("it is said %d times", got)
	}
}
