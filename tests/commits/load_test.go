package commits_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/oracle"
)

// partitions is how many an HMC has.
const partitions = 3

// console is a simulated HMC.
type console struct {
	name  string // as the configuration has it
	sim   *hmcsim.HMC
	entry string
	// refresh says that what it holds of a partition is replayed.
	refresh bool
	// logged is the time of the newest log entry: only their times say in which order they are
	// that are fetched.
	logged time.Time
}

// startHMCs starts one HMC, or two, or two of one group.
func (r *run) startHMCs() error {
	kind := r.random.IntN(4)
	r.grouped = kind == 3
	names := []string{"east", "west"}
	if kind < 2 {
		names = names[:1]
	}
	for _, name := range names {
		opts := hmcsim.Options{
			Name: name, CPCs: 1, Partitions: partitions, Seed: 2*r.seed + uint64(len(r.hmcs)), OSMessages: 1_000_000, MaxSessions: 1_000_000,
			RefreshOnce: r.random.IntN(2) == 0, SequencePerSession: r.random.IntN(2) == 0, CutOnSessionEnd: true,
		}
		if len(r.hmcs) > 0 {
			opts.CA = r.hmcs[0].sim.CA()
			if r.grouped {
				opts.EstateOf = r.hmcs[0].sim
				opts.Lag = time.Duration(r.random.IntN(2)*r.random.IntN(100)) * time.Millisecond
			}
		}
		sim, err := hmcsim.Start(opts)
		if err != nil {
			return err
		}
		c := &console{name: name, sim: sim, refresh: r.random.IntN(2) == 0}
		r.hmcs = append(r.hmcs, c)
		ca := filepath.Join(r.dir, name+".pem")
		if err := os.WriteFile(ca, sim.CACertPEM(), 0o600); err != nil {
			return err
		}
		group := name
		if r.grouped {
			group = "both"
		}
		c.entry = fmt.Sprintf("- {name: %s, group: %s, hosts: [%q], rest_port: %d, stomp_port: %d, userid: %s, password: %s, tls: {ca_file: %q},\n"+
			"   topics: [object, job, audit, security], os_messages: [{cpc: .*, partition: .*, include_refresh_messages: %v}], rest_requests_per_minute: 10000,\n"+
			"   stomp: {connect_timeout: 5s, reconnect_sleep_initial: 20ms, reconnect_sleep_max: 200ms}}\n",
			name, group, sim.Host(), sim.RESTPort(), sim.StompPort(), hmcsim.DefaultUserid, hmcsim.DefaultPassword, ca, c.refresh)
	}
	// An operating system runs in each partition, so that its messages can be followed.
	for _, c := range r.hmcs {
		for _, p := range c.sim.Partitions() {
			if err := c.sim.SetPartitionStatus(p.ID, "active"); err != nil {
				return err
			}
		}
	}
	return nil
}

// load publishes for a time.
func (r *run) load(length time.Duration) error {
	for end := time.Now().Add(length); time.Now().Before(end); {
		if err := r.publish(r.hmcs[r.random.IntN(len(r.hmcs))]); err != nil {
			return err
		}
		time.Sleep(time.Duration(r.random.IntN(8)) * time.Millisecond)
	}
	return nil
}

// publish does one thing of an HMC.
func (r *run) publish(c *console) error {
	all := c.sim.Partitions()
	p := all[r.random.IntN(len(all))]
	switch n := r.random.IntN(100); {
	case n < 40:
		r.propertyChange(c, p)
	case n < 65:
		return r.osMessages(c, p, 1+r.random.IntN(3))
	case n < 72:
		r.jobCompletion(c)
	case n < 90:
		r.logEntries(c, logs[r.random.IntN(len(logs))], 1+r.random.IntN(2), r.random.IntN(5) == 0)
	case n < 96:
		return c.sim.SetPartitionStatus(p.ID, []string{"active", "degraded"}[r.random.IntN(2)])
	case n < 97: // as at an IPL
		return c.sim.SetOSMessageSequence(p.ID, 0)
	case n < 98 && r.random.IntN(2) == 0:
		defer r.fault(c, "cut")()
		c.sim.Broker().DropLinks()
	case n < 99 && r.random.IntN(4) == 0:
		defer r.fault(c, "session ends")()
		c.sim.ExpireSessions(true)
	}
	return nil
}

// fault notes that a fault of an HMC begins, and returns what ends it. What arrives by another HMC of
// a group does not say that it is over.
func (r *run) fault(c *console, what string) (end func()) {
	if r.grouped {
		r.ledger.Begin(both, what)
	}
	return r.ledger.Begin(c.name, what)
}

// both is the account in the ledger of what all HMCs of a group report: what one of them cannot,
// another one may.
const both = "both"

func (r *run) account(c *console) string {
	if r.grouped {
		return both
	}
	return c.name
}

// propertyChange is told by all HMCs of a group.
func (r *run) propertyChange(c *console, p hmcsim.PartitionInfo) {
	n := r.ledger.Add(r.account(c), resourceOf(p), false)
	headers := []hmcsim.Header{
		{Name: "notification-type", Value: "property-change"},
		{Name: "class", Value: p.Class},
		{Name: "name", Value: p.Name},
		{Name: "object-id", Value: p.ID},
		{Name: "object-uri", Value: p.URI},
		{Name: "property-names", Value: " description "},
	}
	body := fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":null,"new-value":%q}]}`, n.Mark())
	sent := c.sim.Publish(hmcsim.TopicObject, headers, body)
	for _, other := range r.hmcs {
		if r.grouped && other != c {
			sent += other.sim.Publish(hmcsim.TopicObject, headers, body)
		}
	}
	r.ledger.Sent(sent, n)
}

func (r *run) jobCompletion(c *console) {
	n := r.ledger.Add(c.name, "job", false)
	r.ledger.Sent(c.sim.Publish(hmcsim.TopicJob, []hmcsim.Header{
		{Name: "notification-type", Value: "job-completion"},
		{Name: "job-uri", Value: "/api/jobs/" + n.Mark()},
	}, nil), n)
}

// osMessages writes messages of a partition's operating system, which the HMC holds.
func (r *run) osMessages(c *console, p hmcsim.PartitionInfo, count int) error {
	var list []*oracle.Notification
	var texts []string
	for range count {
		n := r.ledger.Add(r.account(c), resourceOf(p)+"os", true)
		list, texts = append(list, n), append(texts, n.Mark())
	}
	sent, err := c.sim.OSMessages(p.ID, texts...)
	r.ledger.Sent(sent, list...)
	return err
}

// logs are the console's.
var logs = []string{"audit", "security"}

// logEntries writes entries of one of the console's logs, which the HMC holds. lost: their notification is lost on its way,
// which shows as soon as there is a next one.
func (r *run) logEntries(c *console, log string, count int, lost bool) {
	var list []*oracle.Notification
	var entries []hmcsim.LogEntry
	for range count {
		n := r.ledger.Add(c.name, log, true)
		list = append(list, n)
		c.logged = c.logged.Add(time.Millisecond)
		if now := time.Now(); now.After(c.logged) {
			c.logged = now
		}
		entries = append(entries, hmcsim.LogEntry{Time: c.logged, EventID: "3101", Name: "Commits", Message: n.Mark()})
	}
	if lost {
		c.sim.LoseLogEntries(log, entries...)
		return
	}
	r.ledger.Sent(c.sim.LogEntries(log, entries...), list...)
}

// resourceOf is the part of a mark that stands for a partition.
func resourceOf(p hmcsim.PartitionInfo) string { return strings.ReplaceAll(p.ID, "-", "") }
