package hmcsim

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode"
)

// MaxConsoleLine is the longest line that is read, in bytes.
const MaxConsoleLine = 1 << 20

// maxRestart is the longest time that an HMC may stay down, in seconds.
const maxRestart = 24 * 60 * 60

// consoleCommand is one command of the simulator's standard input.
type consoleCommand struct {
	name string
	// args are the arguments as help shows them, and how many there must be: [NAME] may be left
	// out, and what ends in ... is the rest of the line as it is.
	args string
	help string
	// run gets an argument "" for each one that was left out.
	run func(args []string) error
}

// commands is the one list of them: parsing, counting of arguments and help follow from it.
func (c *commandLine) commands() []consoleCommand {
	return []consoleCommand{
		{"help", "", "list the commands", c.help},
		{"list", "[CPC]", "list the CPCs, their partitions, adapters and storage groups", c.list},
		{
			"stop", "NAME [USER]", "stop a partition: its operating system writes its last messages",
			c.operate("stops", c.estate.stopPartitionBy),
		},
		{
			"start", "NAME [USER]", "start a partition: its operating system writes its boot messages",
			c.operate("starts", c.estate.startPartitionBy),
		},
		{"status", "NAME STATUS", "give a partition or CPC any status", c.status},
		{
			"acceptable", "NAME STATUSES...",
			"say which statuses of a partition or CPC are acceptable, with blanks between", c.acceptable,
		},
		{"wait", "NAME CODE [REASON]", "let a classic LPAR stop in a disabled wait: wait 0A2 17C", c.wait},
		{
			"reply", "NAME ID [TEXT...]", "answer the message that waits under this reply id: reply LP01 07 CANCEL",
			c.reply,
		},
		{"adapter", "NAME STATUS", "give an adapter a status, or its link one: link=STATUS", c.adapter},
		{"storage", "NAME STATE", "give a storage group a fulfillment-state", c.storage},
		{"rename", "NAME NEW", "give a partition or CPC another name", c.rename},
		{"create", "CPC [NAME]", "make a partition", c.create},
		{"delete", "NAME", "delete a partition", c.partition("is gone", c.estate.DeletePartition)},
		{"say", "NAME TEXT...", "let a partition's operating system write a message", c.say},
		{
			"lose", "CPC", "cut a CPC's support element off: a burst of status changes",
			c.communicate(false, "is cut off"),
		},
		{"regain", "CPC", "bring a CPC's support element back: another burst", c.communicate(true, "communicates")},
		{"job", "", "let a job of each session complete", c.job},
		{
			"hwmessage", "CPC TEXT...", "add a hardware message to a CPC, or to the HMC with console as CPC",
			c.hwMessage,
		},
		{"hwclear", "CPC", "remove the hardware messages of a CPC, or of console", c.hwClear},
		{"restart", "[SECONDS] [HMC]", "take the HMC down and bring it up again", c.restart},
		{"drop", "[HMC]", "cut the STOMP links", c.each("link", "cut", dropLinks)},
		{"expire", "[HMC]", "end the sessions, as their idle timeout does", c.each("session", "expired", expire)},
		{
			"password", "WHEN [HMC]",
			"let the password expire: in so many days (-1: never), which the next logon tells, or now",
			c.password,
		},
		{"quit", "", "end the simulator", c.end},
	}
}

// ConsoleCommand is what help says of a command of the console.
type ConsoleCommand struct{ Usage, Help string }

// ConsoleCommands lists the commands of the console.
func ConsoleCommands() []ConsoleCommand {
	var list []ConsoleCommand
	for _, cmd := range new(commandLine).commands() {
		list = append(list, ConsoleCommand{cmd.usage(), cmd.help})
	}
	return list
}

// commandLine does what is typed at a simulator.
type commandLine struct {
	hmcs []*HMC
	// estate is the HMC that estate and partitions are asked of: they are the same on each.
	estate *HMC
	quit   context.CancelFunc
	// closed by quit, or when the program ends
	done <-chan struct{}

	restarts sync.WaitGroup
	// guards what follows
	mu   sync.Mutex
	out  io.Writer
	down map[*HMC]bool
}

// ServeConsole does what the lines of in say until the context is done or one says quit. What it
// prints begins with #, so that all the simulator has printed stays a configuration file. The end
// of in ends nothing but the reading.
func ServeConsole(ctx context.Context, hmcs []*HMC, in io.Reader, out io.Writer) {
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	c := &commandLine{
		hmcs: hmcs, estate: hmcs[0], quit: quit, done: ctx.Done(), out: out, down: make(map[*HMC]bool),
	}
	defer c.restarts.Wait()
	lines := make(chan string)
	// A read of a terminal or pipe cannot be ended: this goroutine may last as long as the
	// process.
	go func() {
		defer close(lines)
		s := bufio.NewScanner(in)
		s.Buffer(nil, MaxConsoleLine)
		for s.Scan() {
			select {
			case lines <- s.Text():
			case <-ctx.Done():
				return
			}
		}
		if err := s.Err(); err != nil {
			c.printf("no more commands are read: %v", err)
		}
	}()
	for ctx.Err() == nil {
		select {
		case line, more := <-lines:
			if !more {
				lines = nil
				continue
			}
			if err := c.do(line); err != nil {
				c.printf("error: %s", strings.TrimPrefix(err.Error(), "hmcsim: "))
			}
		case <-ctx.Done():
		}
	}
}

// printf prints one line, or several.
func (c *commandLine) printf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	for line := range strings.Lines(text) {
		_, _ = fmt.Fprintln(c.out, "# "+strings.TrimRight(line, " \n"))
	}
}

// do does one line.
func (c *commandLine) do(line string) error {
	name, rest, err := nextWord(strings.ToValidUTF8(line, "\uFFFD"))
	if err != nil || name == "" {
		return err
	}
	commands := c.commands()
	i := slices.IndexFunc(commands, func(cmd consoleCommand) bool { return cmd.name == name })
	if i < 0 {
		return fmt.Errorf("unknown command %q; help lists the commands", name)
	}
	args, err := commands[i].parse(rest)
	if err != nil {
		return err
	}
	return commands[i].run(args)
}

// usage is the command as it is typed.
func (cmd *consoleCommand) usage() string { return strings.TrimRight(cmd.name+" "+cmd.args, " ") }

// parse splits what follows the command's name into its arguments.
func (cmd *consoleCommand) parse(rest string) ([]string, error) {
	var args []string
	for arg := range strings.FieldsSeq(cmd.args) {
		word := strings.TrimSpace(rest)
		var err error
		if strings.HasSuffix(strings.TrimSuffix(arg, "]"), "...") {
			rest = ""
		} else if word, rest, err = nextWord(rest); err != nil {
			return nil, fmt.Errorf("%s: %w", cmd.name, err)
		}
		if word == "" && arg[0] != '[' {
			return nil, fmt.Errorf("%s: %s is missing; usage: %s",
				cmd.name, strings.TrimSuffix(arg, "..."), cmd.usage())
		}
		args = append(args, word)
	}
	if rest = strings.TrimSpace(rest); rest != "" {
		return nil, fmt.Errorf("%s: %q is too much; usage: %s", cmd.name, rest, cmd.usage())
	}
	return args, nil
}

// nextWord returns the first word of a line and what follows it. Words are separated by blanks; one
// with blanks in it stands in double quotes.
func nextWord(line string) (word, rest string, err error) {
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, `"`) {
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			return "", "", fmt.Errorf("the closing quote is missing: %s", line)
		}
		word, err = strconv.Unquote(quoted)
		return word, line[len(quoted):], err
	}
	if i := strings.IndexFunc(line, unicode.IsSpace); i >= 0 {
		return line[:i], line[i:], nil
	}
	return line, "", nil
}

// cpc finds a CPC by its name, object id or URI.
func (c *commandLine) cpc(key string) (CPCInfo, error) {
	c.estate.mu.Lock()
	defer c.estate.mu.Unlock()
	found, err := c.estate.world.findCPC(key)
	if err != nil {
		return CPCInfo{}, fmt.Errorf("%w; list lists all", err)
	}
	return found.info(), nil
}

// named finds the HMC of a name, or all with "".
func (c *commandLine) named(name string) ([]*HMC, error) {
	if name == "" {
		return c.hmcs, nil
	}
	if i := slices.IndexFunc(c.hmcs, func(h *HMC) bool { return h.Name() == name }); i >= 0 {
		return c.hmcs[i : i+1], nil
	}
	return nil, fmt.Errorf("HMC %q is unknown", name)
}

// table prints a table of what write writes, its columns separated by tabs.
func (c *commandLine) table(write func(w io.Writer)) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	write(w)
	if err := w.Flush(); err != nil {
		return err
	}
	c.printf("%s", b.String())
	return nil
}

func (c *commandLine) help([]string) error {
	return c.table(func(w io.Writer) {
		for _, cmd := range c.commands() {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", cmd.usage(), cmd.help)
		}
		_, _ = fmt.Fprint(w, "NAME is a name, CPC/name, object id or URI. "+
			"A name with blanks stands in double quotes.\nThe audit log says that USER did it.\n")
	})
}

func (c *commandLine) list(args []string) error {
	cpcs := c.estate.CPCs()
	if args[0] != "" {
		one, err := c.cpc(args[0])
		if err != nil {
			return err
		}
		cpcs = []CPCInfo{one}
	}
	return c.table(func(w io.Writer) {
		for _, cpc := range cpcs {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", cpc.Name, cpc.Status)
			for _, p := range c.estate.Partitions() {
				if p.CPC == cpc.Name {
					_, _ = fmt.Fprintf(w, "  %s\t%s\n", p.Name, p.Status)
				}
			}
			for _, r := range c.estate.Resources() {
				if r.CPC == cpc.Name {
					status := strings.TrimSuffix(r.Status+", link="+r.Link, ", link=")
					_, _ = fmt.Fprintf(w, "  %s\t%s\n", r.Name, status)
				}
			}
		}
	})
}

// report prints what was done, unless it failed.
func (c *commandLine) report(err error, format string, args ...any) error {
	if err == nil {
		c.printf(format, args...)
	}
	return err
}

// partition returns what does something to a partition, and prints that it does what.
func (c *commandLine) partition(what string, do func(id string) error) func([]string) error {
	return func(args []string) error {
		p, err := c.estate.Partition(args[0])
		if err == nil {
			err = do(p.ID)
		}
		return c.report(err, "partition %s on %s %s", p.Name, p.CPC, what)
	}
}

// operate is partition for an operation that a user may be said to do.
func (c *commandLine) operate(what string, do func(user, id string) error) func([]string) error {
	return func(args []string) error {
		return c.partition(what, func(id string) error { return do(args[1], id) })(args)
	}
}

// object does something to the partition of a name, or to the CPC if there is no such partition.
func (c *commandLine) object(
	key string, partition func(PartitionInfo) error, cpc func(CPCInfo) error,
) error {
	p, err := c.estate.Partition(key)
	one, noCPC := c.cpc(key)
	switch {
	case err == nil && noCPC == nil && one.Name == p.Name:
		return fmt.Errorf("%q is a partition and a CPC: say %s/%s, or %s", key, p.CPC, p.Name, one.URI)
	case err == nil:
		return partition(p)
	case noCPC == nil:
		return cpc(one)
	case errors.Is(err, errUnknown):
		return fmt.Errorf("no partition and no CPC is called %q; list lists all", key)
	}
	return err
}

func (c *commandLine) status(args []string) error {
	status := args[1]
	return c.object(args[0], func(p PartitionInfo) error {
		err := c.estate.SetPartitionStatus(p.ID, status)
		return c.report(err, "partition %s on %s: %s -> %s", p.Name, p.CPC, p.Status, status)
	}, func(cpc CPCInfo) error {
		err := c.estate.SetCPCStatus(cpc.ID, status)
		return c.report(err, "CPC %s: %s -> %s", cpc.Name, cpc.Status, status)
	})
}

func (c *commandLine) acceptable(args []string) error {
	statuses := strings.Fields(args[1])
	return c.object(args[0], func(p PartitionInfo) error {
		err := c.estate.SetAcceptableStatus(p.ID, statuses...)
		return c.report(err, "partition %s on %s: acceptable is %s", p.Name, p.CPC, strings.Join(statuses, ", "))
	}, func(cpc CPCInfo) error {
		err := c.estate.SetAcceptableStatus(cpc.ID, statuses...)
		return c.report(err, "CPC %s: acceptable is %s", cpc.Name, strings.Join(statuses, ", "))
	})
}

func (c *commandLine) wait(args []string) error {
	code, err := strconv.ParseUint(args[1], 16, 12)
	if err != nil {
		return fmt.Errorf("%q is no wait state code: three hexadecimal digits", args[1])
	}
	reason, err := strconv.ParseUint(cmp.Or(args[2], "0"), 16, 20)
	if err != nil {
		return fmt.Errorf("%q is no reason code: up to five hexadecimal digits", args[2])
	}
	return c.partition("waits", func(id string) error {
		return c.estate.DisabledWait(id, int(code), int(reason))
	})(args)
}

func (c *commandLine) reply(args []string) error {
	number, err := strconv.ParseUint(args[1], 10, 16)
	if err != nil {
		return fmt.Errorf("%q is no reply id: digits, as 07 in *07 IEF238D", args[1])
	}
	return c.partition("has its answer", func(id string) error {
		return c.estate.ReplyToOSMessage(id, int(number), cmp.Or(args[2], "U"))
	})(args)
}

func (c *commandLine) password(args []string) error {
	days, err := strconv.ParseInt(args[0], 10, 16)
	if args[0] != "now" && (err != nil || days < -1) {
		return fmt.Errorf("%q is neither now nor a number of days", args[0])
	}
	hmcs, err := c.named(args[1])
	for _, h := range hmcs {
		switch {
		case args[0] == "now":
			h.ExpirePassword(h.opts.Userid)
			c.printf("%s: the password of %s has expired: the next logon is refused", h.Name(), h.opts.Userid)
		case days < 0:
			h.SetPasswordExpires(h.opts.Userid, -1)
			c.printf("%s: the password of %s never expires", h.Name(), h.opts.Userid)
		default:
			h.SetPasswordExpires(h.opts.Userid, int(days))
			c.printf("%s: the password of %s expires in %d %s, as the next logon tells",
				h.Name(), h.opts.Userid, days, plural(int(days), "day"))
		}
	}
	return err
}

func (c *commandLine) adapter(args []string) error {
	status, channel := args[1], ""
	if link, ok := strings.CutPrefix(args[1], "link="); ok {
		status, channel = "", link
	}
	return c.report(c.estate.SetAdapterStatus(args[0], status, channel), "adapter %s: %s", args[0], args[1])
}

func (c *commandLine) storage(args []string) error {
	return c.report(c.estate.SetFulfillment(args[0], args[1]), "storage group %s: %s", args[0], args[1])
}

func (c *commandLine) rename(args []string) error {
	name := args[1]
	return c.object(args[0], func(p PartitionInfo) error {
		for _, other := range c.estate.Partitions() {
			if other.CPC == p.CPC && other.Name == name {
				return fmt.Errorf("%s has a partition %s already", p.CPC, name)
			}
		}
		return c.report(c.estate.RenamePartition(p.ID, name), "partition %s on %s is now %s", p.Name, p.CPC, name)
	}, func(cpc CPCInfo) error {
		for _, other := range c.estate.CPCs() {
			if other.Name == name {
				return fmt.Errorf("there is a CPC %s already", name)
			}
		}
		return c.report(c.estate.RenameCPC(cpc.ID, name), "CPC %s is now %s", cpc.Name, name)
	})
}

func (c *commandLine) create(args []string) error {
	p, err := c.estate.CreatePartition(args[0], args[1])
	return c.report(err, "partition %s on %s is there: %s", p.Name, p.CPC, p.Status)
}

func (c *commandLine) say(args []string) error {
	p, err := c.estate.Partition(args[0])
	if err != nil {
		return err
	}
	if !p.HasOS {
		return fmt.Errorf("partition %s on %s is %s: no operating system of it can be heard", p.Name, p.CPC, p.Status)
	}
	n, err := c.estate.OSMessages(p.ID, args[1])
	return c.report(err, "partition %s on %s has said it, to %d %s", p.Name, p.CPC, n, plural(n, "subscription"))
}

// communicate returns what cuts the support element of a CPC off, or brings it back.
func (c *commandLine) communicate(up bool, what string) func([]string) error {
	return func(args []string) error {
		cpc, err := c.cpc(args[0])
		if err != nil {
			return err
		}
		if cpc.Communicating == up {
			return fmt.Errorf("the support element of %s %s already", cpc.Name, what)
		}
		again := ""
		if up {
			again = " again"
		}
		return c.report(c.estate.SetCommunicating(cpc.ID, up), "the support element of %s %s%s", cpc.Name, what, again)
	}
}

func (c *commandLine) job([]string) error {
	n := 0
	for _, h := range c.hmcs {
		for _, uri := range h.CompleteJobs() {
			c.printf("%s is complete on %s", uri, h.Name())
			n++
		}
	}
	if n == 0 {
		return errors.New("job: nobody is logged on, and jobs belong to sessions")
	}
	return nil
}

// eachOwner does something with each HMC that has the hardware messages of a CPC, or with "console"
// of its own.
func (c *commandLine) eachOwner(key string, do func(h *HMC, cpc string) error) error {
	cpc, hmcs := "", c.hmcs
	if key != "console" {
		info, err := c.cpc(key)
		if err != nil {
			return err
		}
		cpc, hmcs = info.ID, c.hmcs[:1]
	}
	for _, h := range hmcs {
		if err := do(h, cpc); err != nil {
			return err
		}
	}
	return nil
}

func (c *commandLine) hwMessage(args []string) error {
	return c.eachOwner(args[0], func(h *HMC, cpc string) error {
		uri, err := h.AddHardwareMessage(cpc, args[1])
		return c.report(err, "hardware message %s", uri)
	})
}

func (c *commandLine) hwClear(args []string) error {
	return c.eachOwner(args[0], func(h *HMC, cpc string) error {
		messages, err := h.HardwareMessages(cpc)
		if err == nil {
			err = h.DeleteHardwareMessages(cpc)
		}
		n := len(messages)
		return c.report(err, "%d hardware %s of %s removed", n, plural(n, "message"), args[0])
	})
}

// restart takes HMCs down and brings them up again after a time. Other commands are done meanwhile:
// the estate lives on.
func (c *commandLine) restart(args []string) error {
	seconds := 0.0
	if args[0] != "" {
		var err error
		if seconds, err = strconv.ParseFloat(args[0], 64); err != nil || !(seconds >= 0 && seconds <= maxRestart) {
			return fmt.Errorf("restart: %q is not a number of seconds from 0 to %d", args[0], maxRestart)
		}
	}
	hmcs, err := c.named(args[1])
	if err != nil {
		return err
	}
	for _, h := range hmcs {
		c.mu.Lock()
		isDown := c.down[h]
		c.down[h] = true
		c.mu.Unlock()
		if isDown {
			return fmt.Errorf("%s is down already", h.Name())
		}
		h.Stop()
		c.printf("%s is down", h.Name())
		c.restarts.Go(func() {
			timer := time.NewTimer(time.Duration(seconds * float64(time.Second)))
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-c.done:
				return
			}
			err := h.Resume()
			c.mu.Lock()
			delete(c.down, h)
			c.mu.Unlock()
			if err != nil {
				c.printf("error: %s: %v", h.Name(), err)
				return
			}
			c.printf("%s is up again", h.Name())
		})
	}
	return nil
}

// each returns what does something to some of the things of each HMC of a name, and prints to how
// many.
func (c *commandLine) each(thing, done string, do func(*HMC) int) func([]string) error {
	return func(args []string) error {
		hmcs, err := c.named(args[0])
		for _, h := range hmcs {
			n := do(h)
			c.printf("%s: %d %s %s", h.Name(), n, plural(n, thing), done)
		}
		return err
	}
}

func dropLinks(h *HMC) int { return h.Broker().DropLinks() }

func expire(h *HMC) int { return h.ExpireSessions(false) }

func (c *commandLine) end([]string) error {
	c.quit()
	return nil
}

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}
