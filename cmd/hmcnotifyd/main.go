// Command hmcnotifyd brings the notifications of IBM Z and LinuxONE Hardware Management Consoles to
// webhooks, logs and other sinks, and exports what it sees of each HMC as Prometheus metrics.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cmdline"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logs"
)

// The exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// terminated is what kingpin ends the parsing with after --help or --version.
type terminated struct{ status int }

// run is the whole program: it parses the command line, runs the command and returns the exit
// status.
func run(args []string, stdout, stderr io.Writer) (status int) {
	// A closed stdout or stderr is an error of the write. The signal would end the program
	// without logging off.
	signal.Ignore(syscall.SIGPIPE)
	defer func() {
		switch p := recover().(type) {
		case nil:
		case terminated:
			if status = p.status; status != exitDone { // help for a command that there is not
				status = exitUsage
			}
		case *fs.PathError: // of the help
			if !errors.Is(p, syscall.EPIPE) { // else nobody reads it any more
				printError(stderr, p)
				status = exitFailed
			}
		default:
			panic(p)
		}
	}()
	env := environment{stdout: stdout, stderr: stderr}
	app, commands := newApplication(&env)
	if len(args) > 0 && args[0] == cmdline.CompletionFlag {
		for _, word := range cmdline.Complete(context.Background(), app, args[1:], flagValues) {
			fmt.Fprintln(stdout, word)
		}
		return exitDone
	}
	args, err := cmdline.Normalized(app.Model(), args)
	command := ""
	if err == nil {
		if command, err = app.Parse(args); err != nil {
			err = cmdline.Mistake(app, args, err)
		}
	}
	if err != nil {
		printError(stderr, fmt.Errorf("%w (try --help)", err))
		return exitUsage
	}
	if env.log, err = env.newLogger(); err != nil {
		printError(stderr, err)
		return exitUsage
	}
	// net/http writes to the standard logger what its callers need not know, "Unsolicited
	// response" for example.
	restore, err := zap.RedirectStdLogAt(env.log.Named("go"), zapcore.DebugLevel)
	if err != nil {
		printError(stderr, err)
		return exitFailed
	}
	defer restore()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// The first signal ends the program in good order, a second one ends it at once.
	context.AfterFunc(ctx, stop)
	if err := commands[command](ctx); err != nil {
		printError(stderr, err)
		return exitFailed
	}
	return exitDone
}

// newApplication defines the command line: the flags set what is in env, and the commands are by
// their names.
func newApplication(env *environment) (*kingpin.Application, map[string]func(context.Context) error) {
	app := kingpin.New("hmcnotifyd",
		"Brings the notifications of IBM Z and LinuxONE HMCs to webhooks and logs, and counts them for Prometheus.")
	app.UsageWriter(env.stdout).ErrorWriter(env.stderr).Terminate(func(status int) { panic(terminated{status}) })
	cmdline.Help(app)
	app.HelpFlag.Short('h').Help("Show help, of a command if there is one before it.")
	app.Version(strings.TrimSuffix(versionText(), "\n"))
	app.VersionFlag.Help("Print what the command version prints.")
	app.Flag("log.level", "Only messages of this level and above are logged.").Default("info").
		EnumVar(&env.logLevel, "debug", "info", "warn", "error")
	app.Flag("log.format", "Form of the log: json or console.").Default("json").
		EnumVar(&env.logFormat, "json", "console")

	env.commands = map[string]func(context.Context) error{}
	runCommand(app, env)
	checkConfigCommand(app, env)
	simulateCommand(app, env)
	demoCommand(app, env)
	sendTestCommand(app, env)
	completionCommand(app, env)
	env.command(app, "man", "Print the manual page: hmcnotifyd man | man -l -", env.man)
	tailCommand(app, env)
	topCommand(app, env)
	env.command(app, "version", "Print the version of the program, of Go and of the libraries.", env.version)
	deadLettersCommand(app, env)
	replayCommand(app, env)
	captureCommand(app, env)
	forgetCommand(app, env)
	supportCommand(app, env)
	migrateCommand(app, env)
	return app, env.commands
}

// commandGroup is what has commands and flags: the program, or a command.
type commandGroup interface {
	Command(name, help string) *kingpin.CmdClause
	GetCommand(name string) *kingpin.CmdClause
}

// command defines a command below the program or a command: what it does, and what is checked of
// its flags before it does that.
func (e *environment) command(
	parent commandGroup, name, help string, run func(context.Context) error, checks ...func() error,
) *kingpin.CmdClause {
	c := parent.Command(name, help)
	c.Validate(func(*kingpin.CmdClause) error {
		for _, check := range checks {
			if err := check(); err != nil {
				return err
			}
		}
		return nil
	})
	e.commands[c.FullCommand()] = run
	return c
}

// printError writes an error, one line for each where several are joined. A problem of the
// configuration begins with its place, as compilers write it, so that editors find it.
func printError(w io.Writer, err error) {
	prefix := "hmcnotifyd: "
	if _, ok := errors.AsType[config.Errors](err); ok {
		prefix = ""
	}
	priority := logs.ErrorPriority(w)
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(w, "%s%s\n", priority, event.Printable(prefix+line))
	}
}

// environment is what the commands share: where they write, and the values of all flags.
type environment struct {
	stdout, stderr      io.Writer
	logLevel, logFormat string
	log                 *zap.Logger
	// by name
	commands map[string]func(context.Context) error

	daemon    daemonFlags
	simulator simulateFlags
	letters   deadLetterFlags
	replay    replayFlags
	capture   captureFlags
	tail      tailFlags
	top       topFlags
	test      sendTestFlags
	forget    forgetFlags
	support   supportFlags

	// of check-config
	configFile, checkEvent, checkExpectations string
	checkOnline                               bool
	// of migrate
	migrateTo string
	// of completion
	shell string
	// of demo
	demoDuration time.Duration
}
