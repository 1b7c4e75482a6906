package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/oracle"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/activemq"
)

// console is an HMC under load. Its Web Services API is a simulated one; its
// broker is the simulated one as well, or Apache ActiveMQ.
type console struct {
	name       string
	sim        *hmcsim.HMC
	ledger     *oracle.Ledger
	rng        *rand.Rand
	pause      time.Duration // between two notifications
	partitions []hmcsim.PartitionInfo
	rest, link *proxy
	// account is where the ledger has what is told of the machines: the HMC's own, or that of its group.
	account string
	// group are all HMCs that tell of them; the first one has them do what they do.
	group []*console
	ahead atomic.Int64 // of its clock, in nanoseconds

	// For ActiveMQ alone.
	amq      bool
	out      atomic.Pointer[activemq.Publisher] // nil: the broker is down
	sequence map[string]int
	global   int

	down atomic.Bool // the HMC is being restarted: nothing happens on it
}

// now is what the HMC's clock says.
func (c *console) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// load publishes a mix of all types until ctx is done.
func (c *console) load(ctx context.Context) error {
	tick := time.NewTicker(c.pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if c.down.Load() {
			continue
		}
		if err := c.publish(); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
}

// publish publishes one notification.
func (c *console) publish() error {
	p := c.partitions[c.rng.IntN(len(c.partitions))]
	n := c.rng.IntN(10)
	if len(c.group) > 1 && (c.group[0] != c && n < 7 || n == 7) {
		n = 8 // the first one does it; jobs are told to the session that has started them
	}
	switch {
	case n < 5:
		return c.propertyChange(p)
	case n < 7:
		return c.osMessages(p, 1+c.rng.IntN(3))
	case n < 8:
		return c.jobCompletion()
	default:
		return c.logEntries([]string{hmcsim.TopicAudit, hmcsim.TopicSecurity}[c.rng.IntN(2)], 1+c.rng.IntN(2))
	}
}

func (c *console) propertyChange(p hmcsim.PartitionInfo) error {
	n := c.ledger.Add(c.account, resourceOf(p), false)
	headers := []hmcsim.Header{
		{Name: "notification-type", Value: "property-change"},
		{Name: "class", Value: p.Class},
		{Name: "name", Value: p.Name},
		{Name: "object-id", Value: p.ID},
		{Name: "object-uri", Value: p.URI},
		{Name: "property-names", Value: " description "},
	}
	body := fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":null,"new-value":%q}]}`, n.Mark())
	if c.amq {
		return c.send(hmcsim.TopicObject, "", headers, body, n)
	}
	sent := 0
	for _, other := range c.group {
		sent += other.sim.Publish(hmcsim.TopicObject, headers, body)
	}
	c.ledger.Sent(sent, n)
	return nil
}

func (c *console) jobCompletion() error {
	n := c.ledger.Add(c.name, "job", false)
	headers := []hmcsim.Header{
		{Name: "notification-type", Value: "job-completion"},
		{Name: "job-uri", Value: "/api/jobs/" + n.Mark()},
	}
	if c.amq {
		return c.send(hmcsim.TopicJob, "", headers, nil, n)
	}
	c.ledger.Sent(c.sim.Publish(hmcsim.TopicJob, headers, nil), n)
	return nil
}

// osMessages writes messages of a partition's operating system, which the HMC
// holds.
func (c *console) osMessages(p hmcsim.PartitionInfo, count int) error {
	var list []*oracle.Notification
	var texts []string
	for range count {
		n := c.ledger.Add(c.account, resourceOf(p)+"os", true)
		list, texts = append(list, n), append(texts, n.Mark())
	}
	before, err := c.sim.Partition(p.ID)
	if err != nil {
		return err
	}
	subscribers, err := c.sim.OSMessages(p.ID, texts...)
	if err != nil {
		return err
	}
	if !c.amq {
		c.ledger.Sent(subscribers, list...)
		return nil
	}
	var parts []string
	for i, text := range texts {
		parts = append(parts, fmt.Sprintf(`{"sequence-number":%d,"message-id":"0","message-text":%q,"os-name":null,"timestamp":-1,`+
			`"sound-alarm":false,"is-priority":false,"is-held":false,"is-refresh":false,"prompt-text":""}`, before.NextOSMessage+int64(i), text))
	}
	headers := []hmcsim.Header{
		{Name: "notification-type", Value: "os-message"},
		{Name: "class", Value: p.Class},
		{Name: "name", Value: p.Name},
		{Name: "object-id", Value: p.ID},
		{Name: "object-uri", Value: p.URI},
	}
	return c.send(hmcsim.TopicOSMessage, strings.ReplaceAll(p.ID, "-", ""), headers, []byte(`{"os-messages":[`+strings.Join(parts, ",")+`]}`), list...)
}

// logEntries writes entries of one of the console's logs, which the HMC holds.
func (c *console) logEntries(topicType string, count int) error {
	var list []*oracle.Notification
	var entries []hmcsim.LogEntry
	var parts []string
	now := c.now()
	for range count {
		n := c.ledger.Add(c.name, strings.TrimSuffix(topicType, "-notification"), true)
		list = append(list, n)
		entries = append(entries, hmcsim.LogEntry{Time: now, EventID: "3101", Name: "Chaos", Message: n.Mark()})
		parts = append(parts, fmt.Sprintf(`{"event-time":%d,"event-id":"3101","event-name":"Chaos","event-message":%q,`+
			`"userid":null,"user-uri":null,"event-data-items":[],"event-details":[]}`, now.UnixMilli(), n.Mark()))
	}
	subscribers := c.sim.LogEntries(topicType, entries...)
	if !c.amq {
		c.ledger.Sent(subscribers, list...)
		return nil
	}
	headers := []hmcsim.Header{{Name: "notification-type", Value: "log-entry"}}
	return c.send(topicType, "", headers, []byte(`{"log-entries":[`+strings.Join(parts, ",")+`]}`), list...)
}

// send publishes by ActiveMQ, on the topics that the sessions have: of a type,
// those that end with suffix. A broker that is down is no error: nobody is
// told then.
func (c *console) send(topicType, suffix string, headers []hmcsim.Header, body []byte, list ...*oracle.Notification) error {
	out := c.out.Load()
	sent := 0
	for _, s := range c.sim.SessionInfos() {
		for _, topic := range s.Topics[topicType] {
			if out == nil || !strings.HasSuffix(topic, suffix) {
				continue
			}
			all := map[string]string{"session-sequence-nr": strconv.Itoa(c.sequence[topic]), "global-sequence-nr": strconv.Itoa(c.global)}
			for _, h := range headers {
				all[h.Name] = h.Value
			}
			c.sequence[topic]++
			c.global++
			if out.Send(topic, all, body) == nil {
				sent++
			}
		}
	}
	c.ledger.Sent(sent, list...)
	return nil
}

// resourceOf is the part of a mark that stands for a partition.
func resourceOf(p hmcsim.PartitionInfo) string { return strings.ReplaceAll(p.ID, "-", "") }

// daemonAPI asks the daemon over HTTP.
type daemonAPI struct{ url string }

// get returns the answer of a page.
func (d daemonAPI) get(ctx context.Context, path string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url+path, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// text returns a page that is there.
func (d daemonAPI) text(ctx context.Context, path string) (string, error) {
	code, body, err := d.get(ctx, path)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%s: status %d", path, code)
	}
	return string(body), err
}

// settled says what the daemon has still to do.
func (d daemonAPI) settled(ctx context.Context) error {
	code, body, err := d.get(ctx, "/api/v1/status")
	if err != nil {
		return err
	}
	var s struct {
		Ready   bool
		Reasons []struct{ HMC, Sink, Reason string }
		Sinks   []struct {
			Name        string
			QueueEvents int `json:"queue_events"`
		}
	}
	if err := json.Unmarshal(body, &s); err != nil || code != http.StatusOK {
		return fmt.Errorf("status: %d, %w: %s", code, err, body)
	}
	var errs []error
	if !s.Ready {
		errs = append(errs, fmt.Errorf("not ready: %v", s.Reasons))
	}
	for _, k := range s.Sinks {
		if k.QueueEvents > 0 {
			errs = append(errs, fmt.Errorf("%d events wait for sink %s", k.QueueEvents, k.Name))
		}
	}
	return errors.Join(errs...)
}
