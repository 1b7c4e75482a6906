package watch

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

const (
	// passwordWarning is how many days before a password expires that is worth a word.
	passwordWarning = 30
	// shownNames is how many partitions of a CPC are named.
	shownNames = 100
	// channelTries is how many partitions are asked for their OS messages, until one of them
	// shows whether the userid may have them.
	channelTries = 5
	// checkRequests is the least budget of a check, in requests per minute: it is made once,
	// and somebody waits for it.
	checkRequests = 120
)

// LogonTurns keeps a userid and password that were refused from being tried a second time, on
// whichever HMC: those that share them take turns.
type LogonTurns struct{ turns sync.Map }

type logonTurn struct {
	sync.Mutex // held while somebody logs on

	refusedBy string // the HMC's name; "": nobody has refused
}

func (t *LogonTurns) of(cfg *config.HMC) *logonTurn {
	key := [2]string{cfg.Userid, cfg.Password.Expose()}
	if cfg.Session != nil {
		key = [2]string{cfg.Session.ID.Expose(), cfg.Session.Credential.Expose()}
	}
	turn, _ := t.turns.LoadOrStore(key, new(logonTurn))
	return turn.(*logonTurn)
}

// check looks at one HMC. It stands on a session and a connector, as a Supervisor does.
type check struct {
	*status.Finding

	cfg     config.HMC
	turns   *LogonTurns
	session *session
	link    *receiver.Receiver
	// partitions are those that the userid may see, listed says whether all of them; selected
	// are those whose OS messages are asked for.
	partitions, selected []hmc.Partition
	listed               bool
}

// Check does for one HMC, once, what a Supervisor does all the time: it looks at the certificates,
// logs on, looks at what the userid may have, connects the link, subscribes, and logs off. What it
// finds goes to f.
func Check(ctx context.Context, f *status.Finding, cfg config.HMC, turns *LogonTurns, version string) {
	if cfg.RESTRequestsPerMinute > 0 {
		cfg.RESTRequestsPerMinute = max(cfg.RESTRequestsPerMinute, checkRequests)
	}
	c := &check{Finding: f, cfg: cfg, turns: turns}
	var err error
	c.session, err = newSession(&c.cfg, zap.NewNop(), version, nil)
	if err != nil {
		c.Problem("%v", err)
		return
	}
	defer c.leave(ctx)
	if !c.lookAtHosts(ctx) {
		return
	}
	o, ok := c.logon(ctx)
	if !ok {
		return
	}
	if c.session.api != nil {
		c.topics(o)
		c.estate(ctx)
		c.osMessages(ctx, o)
		c.hardwareMessages(ctx)
	}
	for _, p := range c.connect(ctx, o) {
		c.Problem("%s", p)
	}
}

// leave ends everything that the HMC knows of the check, also when ctx is done.
func (c *check) leave(ctx context.Context) {
	if c.link != nil {
		closeLink(c.link, c.session.log)
	}
	switch {
	case c.session.api == nil:
	case c.cfg.Session != nil:
		c.Info("the session given in the configuration was left as it is")
	default:
		c.Step("logging off")
		if err := c.session.end(ctx); err != nil {
			c.Problem("the session could not be logged off; the HMC ends it after its idle time: %v", err)
		} else {
			c.Info("logged off")
		}
	}
	c.session.close(ctx)
}

// logon asks for the version, logs on unless the topics are known, and returns the topics to
// subscribe to.
func (c *check) logon(ctx context.Context) (*offer, bool) {
	s := c.session
	turn := c.turns.of(&c.cfg)
	turn.Lock()
	defer turn.Unlock()
	if s.usesREST() {
		c.Step("asking for the version")
		v, err := s.client.QueryAPIVersion(ctx)
		if err != nil {
			c.Problem("%s", explain(&c.cfg, err))
			return nil, false
		}
		c.Info("the Web Services API of %s answers: %s", s.client.Host(), v)
		if !c.mayTry(turn) {
			return nil, false
		}
		c.Step("logging on as %s", s.who())
	}
	o, err := s.prepare(ctx)
	if err != nil {
		c.refused(turn, err)
		return nil, false
	}
	if s.api != nil {
		c.Info("the Web Services API of %s accepts %s", o.host, s.who())
		switch days := s.api.PasswordExpires; {
		case c.cfg.Session != nil || days < 0:
		case days <= passwordWarning:
			c.Warn("the password expires in %d days, and the HMC then refuses it: "+
				"change it before, or take a password rule without expiry for this userid", days)
		default:
			c.Info("the password expires in %d days", days)
		}
	}
	return o, true
}

// mayTry says whether userid and password may be tried. Where they were refused before, nobody
// does.
func (c *check) mayTry(turn *logonTurn) bool {
	if turn.refusedBy == "" {
		return true
	}
	c.Problem("not tried to log on, so that no userid gets disabled: "+
		"hmc %s has just refused the same userid and password", turn.refusedBy)
	return false
}

// refused notes why there is no session or no link, and that the password is not to be tried again.
func (c *check) refused(turn *logonTurn, err error) {
	text := explain(&c.cfg, err)
	if isHold(err) && c.cfg.Session == nil {
		turn.refusedBy = c.cfg.Name
		text = strings.TrimSuffix(text, ".") + " (the HMC says the same of a wrong password, of one that has expired, " +
			"and of a userid that may not use the Web Services API). " +
			"Correct it before the next check: an HMC disables a userid after a few refused logons"
	}
	c.Problem("%s", text)
}

// topics says which kinds of notifications the userid may have. Those that are asked for and
// missing are among the problems of the link.
func (c *check) topics(o *offer) {
	granted := slices.DeleteFunc(slices.Clone(o.granted), func(kind string) bool {
		return !slices.Contains(event.TopicTypes(), kind)
	})
	slices.Sort(granted)
	c.Info("topics granted: %s; asked for: %s",
		event.ListOrNone(slices.Compact(granted)), event.ListOrNone(c.cfg.Topics))
	for _, kind := range logKinds {
		if !slices.Contains(granted, kind) && !slices.Contains(c.cfg.Topics, kind) {
			c.Info("topic %s is not granted, nor asked for: it needs %s on the HMC", kind, permissions[kind])
		}
	}
}

// estate says what the userid may see.
func (c *check) estate(ctx context.Context) {
	c.Step("listing CPCs and partitions")
	cpcs, err := c.session.api.ListCPCs(ctx)
	if err != nil {
		c.Problem("CPCs could not be listed: %v", err)
	}
	c.listed = true
	for _, of := range partitionLists(c.session.api) {
		list, err := of.call(ctx)
		if err != nil {
			c.listed = false
			c.Problem("partitions could not be listed: %v", err)
			continue
		}
		c.partitions = append(c.partitions, list...)
	}
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
	for i := range c.partitions {
		p := &c.partitions[i]
		name := p.Name
		if _, ok := wantsMessages(&c.cfg, p); ok {
			name += "*"
			c.selected = append(c.selected, *p)
		}
		names[p.CPCName] = append(names[p.CPCName], name)
		if _, seen := state[p.CPCName]; !seen {
			state[p.CPCName] = " (no access to the CPC itself)"
		}
	}
	marked := ""
	if len(c.cfg.OSMessages) > 0 {
		marked = fmt.Sprintf("; os_messages selects %d of them, marked *", len(c.selected))
	}
	c.Info("the userid may see %d partitions on %d CPCs%s", len(c.partitions), len(names), marked)
	for _, cpc := range slices.Sorted(maps.Keys(names)) {
		list := names[cpc]
		slices.Sort(list)
		more := ""
		if len(list) > shownNames {
			more = fmt.Sprintf(" and %d more", len(list)-shownNames)
			list = list[:shownNames]
		}
		c.Info("CPC %s%s: %s%s", cpc, state[cpc], event.ListOrNone(list), more)
	}
	if err == nil && c.listed && len(names) == 0 {
		c.Problem("the userid may see no CPC and no partition, so nothing of them is told: on the HMC, in User Management, " +
			"give the userid's role object access to the CPCs and partitions to hear of")
	}
}

// osMessages says whether the userid may follow the consoles that are asked for. The permission is
// the same for all of them, so it asks one, and adds its topic to those that are subscribed to. It
// ends with the session.
func (c *check) osMessages(ctx context.Context, o *offer) {
	for i, want := range c.cfg.OSMessages {
		selects := func(p hmc.Partition) bool { return want.CPC.Match(p.CPCName) && want.Partition.Match(p.Name) }
		if c.listed && !slices.ContainsFunc(c.partitions, selects) {
			c.Warn("os_messages[%d] (cpc %q, partition %q) selects no partition that the userid may see",
				i, want.CPC, want.Partition)
		}
	}
	// Those first that should have something to say.
	slices.SortStableFunc(c.selected, func(a, b hmc.Partition) int { return atRest(a.Status) - atRest(b.Status) })
	tries := c.selected[:min(channelTries, len(c.selected))]
	for i := range tries {
		p := &tries[i]
		c.Step("opening the OS message channel of %s on %s", p.Name, p.CPCName)
		topic, err := c.session.api.OpenOSMessageChannel(ctx, p.ObjectURI, false)
		switch {
		case err == nil:
			o.kinds[topic] = event.TopicOSMessage
			c.Info("operating system messages may be followed (tried with %s on %s)", p.Name, p.CPCName)
			return
		case hmc.IsReason(err, http.StatusConflict, hmc.ReasonChannelExists):
			// of a session given in the configuration
			c.Info("operating system messages are followed already (seen with %s on %s)", p.Name, p.CPCName)
			return
		case isUnavailable(err):
			continue
		case isStatus(err, http.StatusForbidden):
			c.Problem("operating system messages may not be followed: on the HMC, in User Management, "+
				`give the userid's role the task "Operating System Messages", for which view-only is enough: %v`, err)
			return
		default:
			c.Problem("the operating system messages of %s on %s cannot be followed: %v", p.Name, p.CPCName, err)
			return
		}
	}
	if len(tries) > 0 {
		c.Info("whether operating system messages may be followed could not be seen: no partition offers any now "+
			"(tried with %d that os_messages selects)", len(tries))
	}
}

// hardwareMessages says whether the userid may see the hardware messages that are asked for. It
// looks at those of the console only: the permission is the same, and there may be many CPCs.
func (c *check) hardwareMessages(ctx context.Context) {
	if !c.cfg.HardwareMessages {
		return
	}
	c.Step("listing hardware messages")
	messages, _, err := c.session.api.ListHardwareMessages(ctx, record.ConsoleURI, time.Time{})
	if err != nil {
		c.Problem("hardware messages could not be listed%s: %v", hardwareHint(err), err)
		return
	}
	c.Info("hardware messages of the console (%d now) and of the CPCs are followed", len(messages))
}

// connect makes the link, and returns the problems that are left.
func (c *check) connect(ctx context.Context, o *offer) (problems []string) {
	turn := c.turns.of(&c.cfg)
	if !c.session.usesREST() { // then it is the broker that sees the password
		turn.Lock()
		defer turn.Unlock()
		if !c.mayTry(turn) {
			return o.missing
		}
	}
	c.Step("connecting the link")
	start := time.Now()
	connector := newConnector(c.session, receiver.Options{}, func(*receiver.Receiver) {})
	link, err := connector.connect(ctx, o)
	switch {
	case err == nil:
	case failureReason(err) == receiver.ReasonAuthorization:
		c.refused(turn, err)
		return o.missing
	default:
		c.Problem("the link cannot be made: %s", explain(&c.cfg, err))
		return o.missing
	}
	c.link = link
	o.unlisted = ""
	now := newState()
	now.offered(o)
	now.up(link)
	beat := "without heart-beats"
	if send, receive := link.HeartBeat(); send > 0 || receive > 0 {
		beat = fmt.Sprintf("heart-beats every %s out, %s in", send, receive)
	}
	c.Info("the link to %s is up after %s (STOMP, %s); topics subscribed: %s",
		o.host, time.Since(start).Round(time.Millisecond), beat, event.ListOrNone(now.subscribed()))
	return status.Texts(now.reasons())
}
