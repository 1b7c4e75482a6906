package check

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

	"github.com/hmcnotifyd/hmcnotifyd/pkg/assume"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logon"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/watch"
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

// logonTurns keeps a userid and password that were refused from being tried a second time, on
// whichever HMC: those that share them take turns.
type logonTurns struct{ turns sync.Map }

type logonTurn struct {
	// held while somebody logs on
	sync.Mutex

	// the HMC's name; "": nobody has refused
	refusedBy string
}

func (t *logonTurns) of(cfg *config.HMC) *logonTurn {
	key := [2]string{cfg.Userid, cfg.Password.Expose()}
	if cfg.Session != nil {
		key = [2]string{cfg.Session.ID.Expose(), cfg.Session.Credential.Expose()}
	}
	turn, _ := t.turns.LoadOrStore(key, new(logonTurn))
	return turn.(*logonTurn)
}

// hmcCheck looks at one HMC. It stands on a session and a connector, as a Supervisor does.
type hmcCheck struct {
	*finding

	cfg     config.HMC
	turns   *logonTurns
	session *logon.Session
	link    *receiver.Receiver
	// noLink says that nothing there makes one, which has been said.
	noLink bool
	// answering guards answers.
	answering sync.Mutex
	answers   *assume.Observer
	// partitions are those that the userid may see, listed says whether all of them; selected
	// are those whose OS messages are asked for.
	partitions, selected []hmc.Partition
	listed               bool
}

// checkHMC does for one HMC, once, what a Supervisor does all the time: it looks at the
// certificates, logs on, looks at what the userid may have, connects the link, subscribes, and logs
// off. What it finds goes to f.
func checkHMC(
	ctx context.Context, f *finding, cfg config.HMC, turns *logonTurns, known *seen, version string,
) {
	if cfg.RESTRequestsPerMinute > 0 {
		cfg.RESTRequestsPerMinute = max(cfg.RESTRequestsPerMinute, checkRequests)
	}
	c := &hmcCheck{finding: f, cfg: cfg, turns: turns, answers: assume.NewObserver()}
	var err error
	c.session, err = logon.NewSession(&c.cfg, logon.SessionOptions{
		Logger: zap.NewNop(), Version: version, OnExchange: c.exchange,
	})
	if err != nil {
		c.problem("%v", err)
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
	if c.session.API != nil {
		c.topics(o)
		known.listed(c.estate(ctx))
		c.osMessages(ctx, o)
		c.hardwareMessages(ctx)
	}
	for _, p := range c.connect(ctx, o) {
		c.problem("%s", p)
	}
	c.questions()
}

// exchange and traffic have what goes to and fro answer what is not known of HMCs.
func (c *hmcCheck) exchange(x hmc.Exchange) {
	c.answering.Lock()
	defer c.answering.Unlock()
	logon.ObserveExchange(c.answers, x)
}

func (c *hmcCheck) traffic(t receiver.Traffic) {
	c.answering.Lock()
	defer c.answering.Unlock()
	logon.ObserveTraffic(c.answers, t)
}

// questions says what the HMC has shown of what is not known of HMCs. A check is short, so most of
// it stays open.
func (c *hmcCheck) questions() {
	c.answering.Lock()
	defer c.answering.Unlock()
	all, open := c.answers.Answers(), 0
	for _, a := range all {
		switch a.Verdict {
		case assume.NotSeen:
			open++
		case assume.Otherwise:
			c.warn("an HMC is not as it was thought to be; please report it (docs/contributing-captures.md): %s", a)
		default:
			c.info("%s", a)
		}
	}
	c.info("%d of %d questions about HMCs are not answered by a check; hmcnotifyd capture sees more", open, len(all))
}

// leave ends everything that the HMC knows of the check, also when ctx is done.
func (c *hmcCheck) leave(ctx context.Context) {
	if c.link != nil {
		_ = c.link.Close() // in order or not, it ends
	}
	switch {
	case c.session.API == nil:
	case c.cfg.Session != nil:
		c.info("the session given in the configuration was left as it is")
	default:
		c.step("logging off")
		if err := c.session.End(ctx); err != nil {
			c.problem("the session could not be logged off; the HMC ends it after its idle time: %v", err)
		} else {
			c.info("logged off")
		}
	}
	c.session.Close(ctx)
}

// logon asks for the version, logs on unless the topics are known, and returns the topics to
// subscribe to.
func (c *hmcCheck) logon(ctx context.Context) (*logon.Offer, bool) {
	s := c.session
	turn := c.turns.of(&c.cfg)
	turn.Lock()
	defer turn.Unlock()
	if s.UsesREST() {
		c.step("asking for the version")
		v, host, err := s.Version(ctx)
		if err != nil {
			c.problem("%s", logon.Explain(&c.cfg, err))
			return nil, false
		}
		c.info("the Web Services API of %s answers: %s", host, v)
		if !c.mayTry(turn) {
			return nil, false
		}
		c.step("logging on as %s", s.Who())
	}
	o, err := s.Prepare(ctx)
	if err != nil {
		c.refused(turn, err)
		return nil, false
	}
	if s.API != nil {
		c.info("the Web Services API of %s accepts %s", o.Host, s.Who())
		switch days := s.API.PasswordExpires; {
		case c.cfg.Session != nil || days < 0:
		case days <= passwordWarning:
			c.warn("the password expires in %d days, and the HMC then refuses it: "+
				"change it before, or take a password rule without expiry for this userid", days)
		default:
			c.info("the password expires in %d days", days)
		}
	}
	return o, true
}

// mayTry says whether userid and password may be tried. Where they were refused before, nobody
// does.
func (c *hmcCheck) mayTry(turn *logonTurn) bool {
	if turn.refusedBy == "" {
		return true
	}
	c.problem("not tried to log on, so that no userid gets disabled: "+
		"hmc %s has just refused the same userid and password", turn.refusedBy)
	return false
}

// refused notes why there is no session or no link, and that the password is not to be tried again.
func (c *hmcCheck) refused(turn *logonTurn, err error) {
	text := logon.Explain(&c.cfg, err)
	if logon.IsHold(err) && c.cfg.Session == nil {
		turn.refusedBy = c.cfg.Name
		text = strings.TrimSuffix(text, ".") + " (the HMC says the same of a wrong password, " +
			"of one that has expired, and of a userid that may not use the Web Services API). " +
			"Correct it before the next check: an HMC disables a userid after a few refused logons"
	}
	c.problem("%s", text)
}

// topics says which kinds of notifications the userid may have. Those that are asked for and
// missing are among the problems of the link.
func (c *hmcCheck) topics(o *logon.Offer) {
	granted := slices.DeleteFunc(slices.Clone(o.Granted), func(kind string) bool {
		return !slices.Contains(event.TopicTypes(), kind)
	})
	slices.Sort(granted)
	c.info("topics granted: %s; asked for: %s",
		event.ListOrNone(slices.Compact(granted)), event.ListOrNone(c.cfg.Topics))
	for _, kind := range event.LogTopics() {
		if !slices.Contains(granted, kind) && !slices.Contains(c.cfg.Topics, kind) {
			c.info("topic %s is not granted, nor asked for: it needs %s on the HMC", kind, logon.Permissions[kind])
		}
	}
}

// estate says what the userid may see, and returns it.
func (c *hmcCheck) estate(ctx context.Context) (cpcs []hmc.CPC, partitions []hmc.Partition, all bool) {
	c.step("listing CPCs and partitions")
	cpcs, err := c.session.API.ListCPCs(ctx)
	if err != nil {
		c.problem("CPCs could not be listed: %v", err)
	}
	c.listed = true
	for _, of := range watch.PartitionLists(c.session.API) {
		list, err := of.Call(ctx)
		if err != nil {
			c.listed = false
			c.problem("partitions could not be listed: %v", err)
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
		if _, ok := watch.WantsMessages(&c.cfg, p); ok {
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
	c.info("the userid may see %d partitions on %d CPCs%s", len(c.partitions), len(names), marked)
	for _, cpc := range slices.Sorted(maps.Keys(names)) {
		list := names[cpc]
		slices.Sort(list)
		more := ""
		if len(list) > shownNames {
			more = fmt.Sprintf(" and %d more", len(list)-shownNames)
			list = list[:shownNames]
		}
		c.info("CPC %s%s: %s%s", cpc, state[cpc], event.ListOrNone(list), more)
	}
	if err == nil && c.listed && len(names) == 0 {
		c.problem("the userid may see no CPC and no partition, so nothing of them is told: " +
			"on the HMC, in User Management, " +
			"give the userid's role object access to the CPCs and partitions to hear of")
	}
	return cpcs, c.partitions, err == nil && c.listed
}

// osMessages says whether the userid may follow the consoles that are asked for. The permission is
// the same for all of them, so it asks one, and adds its topic to those that are subscribed to. It
// ends with the session.
func (c *hmcCheck) osMessages(ctx context.Context, o *logon.Offer) {
	for i, want := range c.cfg.OSMessages {
		selects := func(p hmc.Partition) bool { return want.CPC.Match(p.CPCName) && want.Partition.Match(p.Name) }
		if c.listed && !slices.ContainsFunc(c.partitions, selects) {
			c.warn("os_messages[%d] (cpc %q, partition %q) selects no partition that the userid may see",
				i, want.CPC, want.Partition)
		}
	}
	// Those first that should have something to say.
	slices.SortStableFunc(c.selected, func(a, b hmc.Partition) int {
		return watch.AtRest(a.Status) - watch.AtRest(b.Status)
	})
	tries := c.selected[:min(channelTries, len(c.selected))]
	for i := range tries {
		p := &tries[i]
		c.step("opening the OS message channel of %s on %s", p.Name, p.CPCName)
		topic, err := c.session.API.OpenOSMessageChannel(ctx, p.ObjectURI, false)
		switch {
		case err == nil:
			o.Kinds[topic] = event.TopicOSMessage
			c.info("operating system messages may be followed (tried with %s on %s)", p.Name, p.CPCName)
			return
		case hmc.IsReason(err, http.StatusConflict, hmc.ReasonChannelExists):
			// of a session given in the configuration
			c.info("operating system messages are followed already (seen with %s on %s)", p.Name, p.CPCName)
			return
		case hmc.IsReason(err, http.StatusConflict, hmc.ReasonChannelUnavailable):
			continue
		case logon.IsStatus(err, http.StatusForbidden):
			c.problem("operating system messages may not be followed: on the HMC, in User Management, "+
				`give the userid's role the task "Operating System Messages", for which view-only is enough: %v`, err)
			return
		default:
			c.problem("the operating system messages of %s on %s cannot be followed: %v", p.Name, p.CPCName, err)
			return
		}
	}
	if len(tries) > 0 {
		c.info("whether operating system messages may be followed could not be seen: no partition offers any now "+
			"(tried with %d that os_messages selects)", len(tries))
	}
}

// hardwareMessages says whether the userid may see the hardware messages that are asked for. It
// looks at those of the console only: the permission is the same, and there may be many CPCs.
func (c *hmcCheck) hardwareMessages(ctx context.Context) {
	if !c.cfg.HardwareMessages {
		return
	}
	c.step("listing hardware messages")
	messages, _, err := c.session.API.ListHardwareMessages(ctx, record.ConsoleURI, time.Time{})
	if err != nil {
		c.problem("hardware messages could not be listed%s: %v", logon.HardwareHint(err), err)
		return
	}
	c.info("hardware messages of the console (%d now) and of the CPCs are followed", len(messages))
}

// connect makes the link, and returns the problems that are left.
func (c *hmcCheck) connect(ctx context.Context, o *logon.Offer) (problems []string) {
	if c.noLink {
		return o.Missing
	}
	turn := c.turns.of(&c.cfg)
	if !c.session.UsesREST() { // then it is the broker that sees the password
		turn.Lock()
		defer turn.Unlock()
		if !c.mayTry(turn) {
			return o.Missing
		}
	}
	c.step("connecting the link")
	start := time.Now()
	connector := logon.NewConnector(c.session, receiver.Options{OnTraffic: c.traffic}, func(*receiver.Receiver) {})
	link, err := connector.Connect(ctx, o)
	switch {
	case err == nil:
	case logon.FailureReason(err) == receiver.ReasonAuthorization:
		c.refused(turn, err)
		return o.Missing
	default:
		c.problem("the link cannot be made: %s", logon.Explain(&c.cfg, err))
		return o.Missing
	}
	c.link = link
	var kinds []string
	problems = slices.Clone(o.Missing)
	for topic, kind := range o.Kinds {
		switch {
		case link.Subscribed(topic):
			kinds = append(kinds, kind)
		case kind != event.TopicOSMessage:
			problems = append(problems, fmt.Sprintf("topic %s (%s): %s", topic, kind, status.NotSubscribed))
		}
	}
	slices.Sort(kinds)
	slices.Sort(problems)
	beat := "without heart-beats"
	if send, receive := link.HeartBeat(); send > 0 || receive > 0 {
		beat = fmt.Sprintf("heart-beats every %s out, %s in", send, receive)
	}
	c.info("the link to %s is up after %s (STOMP, %s); topics subscribed: %s",
		o.Host, time.Since(start).Round(time.Millisecond), beat, event.ListOrNone(kinds))
	return problems
}
