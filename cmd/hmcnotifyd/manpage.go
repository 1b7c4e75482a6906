package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/alecthomas/kingpin/v2"
)

func (e *environment) man(context.Context) error {
	app, _ := newApplication(new(environment))
	_, err := io.WriteString(e.stdout, manPage(modelOf(app)))
	return err
}

// modelOf returns the definitions of the command line, with the command help, which kingpin adds
// when it begins to parse.
func modelOf(app *kingpin.Application) *kingpin.ApplicationModel {
	_, _ = app.ParseContext(nil)
	return app.Model()
}

// manPage makes the manual page of the definitions of the command line.
func manPage(model *kingpin.ApplicationModel) string {
	m := manWriter{}
	m.raw(`.TH HMCNOTIFYD 1 "" "hmcnotifyd ` + version + `" "User Commands"`)
	m.raw(".nh") // no hyphenation: a hyphen in a command would not be found
	m.raw(".ad l")
	m.section("NAME")
	m.text("hmcnotifyd - notifications of IBM Z and LinuxONE HMCs, to webhooks and logs")
	m.section("SYNOPSIS")
	m.raw(".B hmcnotifyd", "[\\fIflags\\fP] [\\fIcommand\\fP]")
	m.section("DESCRIPTION")
	m.text("hmcnotifyd watches the Hardware Management Consoles (HMCs) of IBM Z and LinuxONE machines and passes on " +
		"what they report, as it happens. Each notification becomes one JSON event that is stored on disk, " +
		"then sent to sinks until they have taken it, and counted for Prometheus.")
	m.text("Without a command it runs the daemon.")
	m.section("COMMANDS")
	for _, c := range model.Commands {
		m.command(c)
	}
	m.section("FLAGS")
	m.text("Of the daemon, but for --help, --version and those that begin with --log, which every command has.")
	m.flags(model.Flags)
	m.section("EXIT STATUS")
	m.item("0", "It is done.")
	m.item("1", "It failed. Errors are on standard error, one line each; "+
		"those of a configuration begin with file, line and key.")
	m.item("2", "The command line is wrong.")
	m.section("SIGNALS")
	m.item("SIGHUP",
		"The daemon opens its log files anew and reads its configuration again. One with a mistake changes nothing.")
	m.item("SIGTERM, SIGINT", "The daemon logs off from each HMC, delivers what it can within 18 seconds, and ends. "+
		"What is not delivered stays stored. A second one ends it at once.")
	m.section("ENVIRONMENT")
	m.text("Flags that name a variable above take their default from it.")
	m.item("NOTIFY_SOCKET, WATCHDOG_USEC", "Set by systemd: "+
		"the daemon tells when it is ready, reloads and stops, how many HMCs are connected, "+
		"and that its loops are alive.")
	m.section("FILES")
	m.text("Where the packages have them:")
	m.item("/etc/hmcnotifyd/hmcnotifyd.yaml",
		"The configuration. /usr/share/doc/hmcnotifyd/config.example.yaml has every key with its default.")
	m.item("/etc/hmcnotifyd/credentials/",
		"Passwords and secrets, which only root can read; the unit hands them over (LoadCredential=).")
	m.item("/etc/default/hmcnotifyd", "Flags of the daemon, for example ARGS=\"--web.listen-address=127.0.0.1:10291\".")
	m.item("/var/lib/hmcnotifyd/", "The stored events.")
	m.item("/usr/lib/systemd/system/hmcnotifyd.service",
		"The unit. Changes go into a drop-in: systemctl edit hmcnotifyd")
	m.section("EXAMPLES")
	m.example("Try it without an HMC:", "hmcnotifyd demo")
	m.example("Check a configuration, then HMCs and sinks too:", "hmcnotifyd check-config hmcnotifyd.yaml",
		"hmcnotifyd check-config --online hmcnotifyd.yaml")
	m.example("See whether events arrive at a sink of the running daemon:", "hmcnotifyd send-test --sink ops")
	m.example("See what a sink refused for good, and send it again:", "hmcnotifyd dead-letters list --sink ops",
		"hmcnotifyd dead-letters replay --sink ops")
	m.section("SEE ALSO")
	m.raw(".BR systemctl (1),", ".BR journalctl (1),", ".BR systemd.exec (5)")
	m.text("/usr/share/doc/hmcnotifyd/, https://github.com/hmcnotifyd/hmcnotifyd")
	return m.String()
}

// manWriter writes the language of manual pages.
type manWriter struct{ strings.Builder }

func (m *manWriter) raw(lines ...string) {
	for _, line := range lines {
		m.WriteString(line + "\n")
	}
}

func (m *manWriter) section(name string) { m.raw(".SH " + name) }

func (m *manWriter) text(s string) { m.raw(".PP", roff(s)) }

func (m *manWriter) item(name, text string) { m.raw(".TP", `\fB`+roff(name)+`\fP`, roff(text)) }

func (m *manWriter) example(what string, commands ...string) {
	m.raw(".PP", roff(what), ".PP", ".in +4n", ".nf")
	for _, c := range commands {
		m.raw(roff(c))
	}
	m.raw(".fi", ".in")
}

func (m *manWriter) command(c *kingpin.CmdModel) {
	if c.Hidden {
		return
	}
	usage := []string{`\fB` + roff(c.FullCommand) + `\fP`}
	if len(visible(c.Flags)) > 0 {
		usage = append(usage, `[\fIflags\fP]`)
	}
	for _, a := range c.Args {
		name := a.Name
		if a.PlaceHolder != "" {
			name = a.PlaceHolder
		}
		if a.Required {
			usage = append(usage, `\fI`+roff(name)+`\fP`)
		} else {
			usage = append(usage, `[\fI`+roff(name)+`\fP]`)
		}
	}
	if len(c.Commands) > 0 {
		usage = append(usage, `\fIcommand\fP`)
	}
	m.raw(".SS " + quoted(strings.Join(usage, " ")))
	m.text(c.Help)
	m.flags(c.Flags)
	for _, sub := range c.Commands {
		m.command(sub)
	}
}

func (m *manWriter) flags(flags []*kingpin.FlagModel) {
	for _, f := range visible(flags) {
		name := `\fB` + roff("--"+f.Name) + `\fP`
		if f.Short != 0 {
			name = `\fB\-` + string(f.Short) + `\fP, ` + name
		}
		if !f.IsBoolFlag() {
			name += `=\fI` + roff(valueName(f)) + `\fP`
		}
		m.raw(".TP", name, roff(strings.Join(append([]string{f.Help}, flagNotes(f)...), " ")))
	}
}

// flagNotes say what the definition of a flag holds besides its help.
func flagNotes(f *kingpin.FlagModel) []string {
	var notes []string
	if f.Required {
		notes = append(notes, "Required.")
	}
	if len(f.Default) > 0 && f.Default[0] != "" {
		notes = append(notes, "Default: "+strings.Join(f.Default, ", ")+".")
	}
	if f.Envar != "" {
		notes = append(notes, "Environment: "+f.Envar+".")
	}
	return notes
}

func visible(flags []*kingpin.FlagModel) []*kingpin.FlagModel {
	var all []*kingpin.FlagModel
	for _, f := range flags {
		if !f.Hidden {
			all = append(all, f)
		}
	}
	return all
}

// valueName is what stands for the value of a flag.
func valueName(f *kingpin.FlagModel) string {
	if f.PlaceHolder != "" {
		return f.PlaceHolder
	}
	name := f.Name[strings.LastIndexAny(f.Name, ".-")+1:]
	return strings.ToUpper(name)
}

// roff escapes what the language of manual pages would take for something else.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(s)
	return regexp.MustCompile(`(?m)^\.`).ReplaceAllString(s, `\&.`)
}

// quoted makes one argument of a request.
func quoted(s string) string { return fmt.Sprintf(`"%s"`, strings.ReplaceAll(s, `"`, `""`)) }
