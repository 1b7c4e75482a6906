package watch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
)

const (
	// passwordWarning is how many days before a password expires that is worth a word.
	passwordWarning = 30
	// shownNames is how many partitions of a CPC are named.
	shownNames = 100
	// channelTries is how many partitions are asked for their OS messages, until one of them tells whether the userid may have them.
	channelTries = 5
	// checkRequests is the least budget of a check, in requests per minute: it is made once, and somebody waits for it.
	checkRequests = 120
)

// Where an administrator of the HMC grants what is missing.
const (
	grantTask   = "on the HMC, in User Management, give the userid's role "
	grantObject = "on the HMC, in User Management, give the userid's role object access to "
)

// hmcCheck looks at one HMC.
type hmcCheck struct {
	*finding

	cfg        config.HMC
	turns      *logonTurns
	s          *Supervisor
	partitions []hmc.Partition // that the userid may see
	listed     bool            // all of them
}

func (c *hmcCheck) run(ctx context.Context, version string) {
	cfg := c.cfg
	if cfg.RESTRequestsPerMinute > 0 {
		cfg.RESTRequestsPerMinute = max(cfg.RESTRequestsPerMinute, checkRequests)
	}
	s, err := NewSupervisor(cfg, nil, record.NewMetrics(prometheus.NewRegistry()), zap.NewNop(), version, DefaultTiming())
	if err != nil {
		c.problem("%v", err)
		return
	}
	c.s = s
	defer c.leave(ctx)
	i, ok := c.lookAtHosts(ctx)
	if !ok {
		return
	}
	s.hostIndex = i
	wanted, host, ok := c.logon(ctx)
	if !ok {
		return
	}
	if s.session != nil {
		c.topics(ctx)
		c.estate(ctx)
		c.osMessages(ctx, wanted)
		c.hardwareMessages(ctx)
		s.noteListing("")
	}
	problems := s.status.missing
	if c.link(ctx, host, wanted) {
		problems = s.status.reasons()
	}
	for _, p := range problems {
		c.problem("%s", p)
	}
}

// leave ends everything that the HMC knows of the check, also when ctx is done.
func (c *hmcCheck) leave(ctx context.Context) {
	s := c.s
	s.closeReceiver()
	session := s.session
	s.session = nil
	switch {
	case session == nil:
	case c.cfg.Session != nil:
		c.say("the session given in the configuration was left as it is")
	default:
		c.step("logging off")
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Timing.Logoff)
		defer cancel()
		if err := session.Logoff(ctx); err != nil && !hmc.SessionLost(err) {
			c.problem("the session could not be logged off; the HMC ends it after its idle time: %v", err)
		} else {
			c.say("logged off")
		}
	}
	if s.client != nil {
		s.client.Close()
	}
}

// logon asks for the version, logs on unless the topics are known, and returns the topics to subscribe to.
func (c *hmcCheck) logon(ctx context.Context) (wanted map[string]string, host string, ok bool) {
	s := c.s
	turn := c.turns.of(&c.cfg)
	turn.Lock()
	defer turn.Unlock()
	if s.usesREST() {
		c.step("asking for the version")
		v, err := s.client.QueryAPIVersion(ctx)
		if err != nil {
			c.problem("%s", s.explain(err))
			return nil, "", false
		}
		c.say("the Web Services API of %s answers: %s", s.client.Host(), v)
		if turn.refusedBy != "" {
			c.problem("%s", notTried(turn))
			return nil, "", false
		}
		c.step("logging on as %s", s.who())
	}
	wanted, host, err := s.prepare(ctx)
	if err != nil {
		c.refused(turn, err)
		return nil, "", false
	}
	if session := s.session; session != nil {
		c.say("the Web Services API of %s accepts %s", host, s.who())
		switch days := session.PasswordExpires; {
		case c.cfg.Session != nil || days < 0:
		case days <= passwordWarning:
			c.warn("the password expires in %d days, and the HMC then refuses it: change it before, or take a password rule without expiry for this userid", days)
		default:
			c.say("the password expires in %d days", days)
		}
	}
	return wanted, host, true
}

// refused notes why there is no session or no link, and that the password is not to be tried again.
func (c *hmcCheck) refused(turn *logonTurn, err error) {
	text := c.s.explain(err)
	if _, hold := errors.AsType[*holdError](err); hold && c.cfg.Session == nil {
		turn.refusedBy = c.cfg.Name
		text = strings.TrimSuffix(text, ".") + " (the HMC says the same of a wrong password, of one that has expired, and of a userid that may not use the Web Services API). " +
			"Correct it before the next check: an HMC disables a userid after a few refused logons"
	}
	c.problem("%s", text)
}

// notTried says why nobody logs on.
func notTried(turn *logonTurn) string {
	return fmt.Sprintf("not tried to log on, so that no userid gets disabled: hmc %s has just refused the same userid and password", turn.refusedBy)
}

// topics says which kinds of notifications the userid may have. Those that are asked for and missing are told with the other problems.
func (c *hmcCheck) topics(ctx context.Context) {
	c.step("looking at the topics")
	topics, err := c.s.session.NotificationTopics(ctx)
	if err != nil {
		c.problem("the topics could not be listed: %s", c.s.explain(err))
		return
	}
	granted := make(map[string]bool)
	for _, t := range topics {
		if kind, ok := knownKinds[t.Type]; ok && kind != event.TopicOSMessage {
			granted[kind] = true
		}
	}
	kinds := slices.Sorted(maps.Keys(granted))
	c.say("topics granted: %s; asked for: %s", event.ListOrNone(kinds), event.ListOrNone(c.cfg.Topics))
	for _, kind := range []string{event.TopicAudit, event.TopicSecurity} {
		if !granted[kind] && !slices.Contains(c.cfg.Topics, kind) {
			c.say("topic %s is not granted, nor asked for: it needs %s on the HMC", kind, permissions[kind])
		}
	}
}

// estate says what the userid may see.
func (c *hmcCheck) estate(ctx context.Context) {
	c.step("listing CPCs and partitions")
	s := c.s
	cpcs, err := s.session.ListCPCs(ctx)
	if err != nil {
		c.problem("CPCs could not be listed: %v", err)
	}
	c.listed = true
	for _, of := range partitionLists(s.session) {
		list, err := of.call(ctx)
		if err != nil {
			c.listed = false
			c.problem("partitions could not be listed: %v", err)
			continue
		}
		c.partitions = append(c.partitions, list...)
	}
	followed := 0
	names := make(map[string][]string) // of partitions, by CPC
	state := make(map[string]string)
	for _, cpc := range cpcs {
		names[cpc.Name] = nil
		mode := "classic mode"
		if cpc.DPMEnabled {
			mode = "DPM mode"
		}
		state[cpc.Name] = fmt.Sprintf(" (%s, %s)", mode, cpc.Status)
	}
	for _, p := range c.partitions {
		name := p.Name
		if _, ok := s.wantsMessages(p.CPCName, p.Name); ok {
			name += "*"
			followed++
		}
		names[p.CPCName] = append(names[p.CPCName], name)
		if _, seen := state[p.CPCName]; !seen {
			state[p.CPCName] = " (no access to the CPC itself)"
		}
	}
	marked := ""
	if len(c.cfg.OSMessages) > 0 {
		marked = fmt.Sprintf("; os_messages selects %d of them, marked *", followed)
	}
	c.say("the userid may see %d partitions on %d CPCs%s", len(c.partitions), len(names), marked)
	for _, cpc := range slices.Sorted(maps.Keys(names)) {
		list := names[cpc]
		slices.Sort(list)
		more := ""
		if len(list) > shownNames {
			more = fmt.Sprintf(" and %d more", len(list)-shownNames)
			list = list[:shownNames]
		}
		c.say("CPC %s%s: %s%s", cpc, state[cpc], event.ListOrNone(list), more)
	}
	if err == nil && c.listed && len(names) == 0 {
		c.problem("the userid may see no CPC and no partition, so nothing of them is told: " + grantObject + "the CPCs and partitions to hear of")
	}
}

// osMessages says whether the userid may follow the consoles that are asked for. The permission is the same for all of them, so it
// asks one, and adds its topic to those that are subscribed to. It ends with the session.
func (c *hmcCheck) osMessages(ctx context.Context, wanted map[string]string) {
	for i, want := range c.cfg.OSMessages {
		if c.listed && !slices.ContainsFunc(c.partitions, func(p hmc.Partition) bool { return want.CPC.Match(p.CPCName) && want.Partition.Match(p.Name) }) {
			c.warn("os_messages[%d] (cpc %q, partition %q) selects no partition that the userid may see", i, want.CPC, want.Partition)
		}
	}
	var selected []hmc.Partition
	for _, p := range c.partitions {
		if _, ok := c.s.wantsMessages(p.CPCName, p.Name); ok {
			selected = append(selected, p)
		}
	}
	if len(selected) == 0 {
		return
	}
	// Those first that should have something to say.
	slices.SortStableFunc(selected, func(a, b hmc.Partition) int { return atRest(a.Status) - atRest(b.Status) })
	for i := range selected[:min(channelTries, len(selected))] {
		p := &selected[i]
		c.step("opening the OS message channel of %s on %s", p.Name, p.CPCName)
		topic, err := c.s.session.OpenOSMessageChannel(ctx, p.ObjectURI, false)
		switch {
		case err == nil:
			wanted[topic] = event.TopicOSMessage
			c.s.want(topic, event.TopicOSMessage)
			c.say("operating system messages may be followed (tried with %s on %s)", p.Name, p.CPCName)
			return
		case hmc.IsReason(err, http.StatusConflict, hmc.ReasonChannelExists): // of a session given in the configuration
			c.say("operating system messages are followed already (seen with %s on %s)", p.Name, p.CPCName)
			return
		case hmc.IsReason(err, http.StatusConflict, hmc.ReasonChannelUnavailable):
			continue
		case isStatus(err, http.StatusForbidden):
			c.problem("operating system messages may not be followed: "+grantTask+`the task "Operating System Messages", for which view-only is enough: %v`, err)
			return
		default:
			c.problem("the operating system messages of %s on %s cannot be followed: %v", p.Name, p.CPCName, err)
			return
		}
	}
	c.say("whether operating system messages may be followed could not be seen: no partition offers any now (tried with %d that os_messages selects)",
		min(channelTries, len(selected)))
}

// atRest is 1 for the status of a partition that has nothing to say.
func atRest(status string) int {
	switch status {
	case "stopped", "not-activated", "communications-not-active", "not-operating":
		return 1
	}
	return 0
}

// hardwareMessages says whether the userid may see the hardware messages that are asked for. It looks at those of the console only: the
// permission is the same, and there may be many CPCs.
func (c *hmcCheck) hardwareMessages(ctx context.Context) {
	if !c.cfg.HardwareMessages {
		return
	}
	c.step("listing hardware messages")
	messages, _, err := c.s.session.ListHardwareMessages(ctx, record.ConsoleURI, time.Time{})
	if err != nil {
		c.problem("hardware messages could not be listed%s: %v", hardwareHint(err), err)
		return
	}
	c.say("hardware messages of the console (%d now) and of the CPCs are followed", len(messages))
}

// link connects and subscribes, and reports whether it could connect.
func (c *hmcCheck) link(ctx context.Context, host string, wanted map[string]string) bool {
	s := c.s
	turn := c.turns.of(&c.cfg)
	if !s.usesREST() { // then it is the broker that sees the password
		turn.Lock()
		defer turn.Unlock()
		if turn.refusedBy != "" {
			c.problem("%s", notTried(turn))
			return false
		}
	}
	c.step("connecting the link")
	start := time.Now()
	rcv, err := s.connect(ctx, host, wanted)
	if err != nil {
		if failureReason(err) == receiver.ReasonAuthorization {
			c.refused(turn, err)
		} else {
			c.problem("the link cannot be made: %s", s.explain(err))
		}
		return false
	}
	s.linkUp(rcv)
	beat := "without heart-beats"
	if send, receive := rcv.HeartBeat(); send > 0 || receive > 0 {
		beat = fmt.Sprintf("heart-beats every %s out, %s in", send, receive)
	}
	c.say("the link to %s is up after %s (STOMP, %s); topics subscribed: %s", host, time.Since(start).Round(time.Millisecond), beat, s.subscribedTopics())
	return true
}

func isStatus(err error, status int) bool {
	answer, ok := errors.AsType[*hmc.HTTPError](err)
	return ok && answer.Status == status
}
