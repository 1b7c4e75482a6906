package cmdline

import (
	"bytes"
	"strings"
	"testing"

	"github.com/alecthomas/kingpin/v2"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program has a default command with flags of the program, one with an argument, and one with commands.
func program(out *bytes.Buffer) *kingpin.Application {
	app := kingpin.New("prog", "Does things.")
	app.UsageWriter(out).ErrorWriter(out).Terminate(func(int) { panic("ended") })
	Help(app)
	app.Flag("config.file", "The configuration.").Default("x.yaml").String()
	app.Flag("log.level", "What is logged.").Default("info").String()
	app.Command("run", "Runs.").Default()
	tail := app.Command("tail", "Follows.")
	tail.Flag("sink", "Of this sink.").String()
	tail.Flag("rate", "A number.").Hidden().Float64()
	tail.Flag("port", "A port.").Hidden().Uint16()
	tail.Flag("count", "Some.").Hidden().Int()
	tail.Flag("for", "A while.").Hidden().Duration()
	tail.Flag("kind", "One of two.").Hidden().Enum("a", "b")
	Filled(tail.Flag("to", "Something.").Hidden(), new(string))
	check := app.Command("check-config", "Checks.")
	check.Arg("FILE", "The file.").Required().String()
	letters := app.Command("dead-letters", "Letters.")
	letters.Flag("sink", "Of this sink.").Required().String()
	letters.Command("list", "Lists.").Flag("json", "As JSON.").Bool()
	return app
}

func TestMistakes(t *testing.T) {
	for line, want := range map[string]string{
		"bogus":                            `there is no command "bogus", and no argument is expected there`,
		"tial":                             `there is no command "tial": did you mean "tail"?`,
		"tail tail":                        `the command "tail" stands in the wrong place: one command at a time`,
		"tail --sink":                      "--sink needs a value",
		"tail --snik=x":                    "there is no flag --snik: did you mean --sink?",
		"tail --json":                      "--json is a flag of another command",
		"tail -x":                          "there is no flag -x",
		"check-config":                     "the argument FILE is missing",
		"dead-letters list":                "--sink is missing",
		"dead-letters --sink=a":            "dead-letters needs one of its commands behind it",
		"--config.file=y tail --sink=ops ": "",
		"tail --sink=a --sink=b":           "--sink may be given only once",
		"tail --rate=abc":                  `--rate: "abc" is not a number`,
		"tail --rate=1e999":                `--rate: "1e999" is too large or too small a number`,
		"tail --port=-1":                   `--port: "-1" is not a whole number, 0 or above`,
		"tail --port=70000":                `--port: "70000" is too large or too small a number`,
		"tail --count=x":                   `--count: "x" is not a number`,
		"tail --for=abc":                   `--for: "abc" is not a duration, as 90s, 10m or 1h30m are`,
		"tail --for=5":                     `--for: "5" is not a duration, as 90s, 10m or 1h30m are`,
		"tail --kind=c":                    `--kind: "c" is none of a, b`,
		"tail --to=":                       "--to must not be empty",
		"tail --to=x":                      "",
	} {
		app := program(new(bytes.Buffer))
		_, err := app.Parse(strings.Fields(line))
		if err == nil {
			if want != "" {
				t.Errorf("%s: no mistake", line)
			}
			continue
		}
		if got := Mistake(app, strings.Fields(line), err).Error(); got != want {
			t.Errorf("%s: %s\nwant %s (%v)", line, got, want, err)
		}
	}
}

// What people type and the parser takes for something else.
func TestNormalized(t *testing.T) {
	for line, want := range map[string]string{
		"tail --sink - --rate=1":                      "tail --sink=- --rate=1",
		"tail --sink=-":                               "tail --sink=-",
		"check-config -":                              `"-", which stands for standard input, cannot be there: name a file`,
		"check-config -- - --json=true":               "check-config -- - --json=true",
		"dead-letters list --json=true":               "dead-letters list --json",
		"dead-letters list --json=false":              "dead-letters list --no-json",
		"dead-letters list --json=1 --json":           "dead-letters list --json --json",
		"dead-letters list --json=yes":                `--json: "yes" is neither true nor false`,
		"dead-letters list --json=":                   `--json: "" is neither true nor false`,
		"--help=true tail":                            "--help tail",
		"--help=false tail":                           "tail",
		"tail --sink=true --bogus=true --config.file": "tail --sink=true --bogus=true --config.file",
	} {
		got, err := Normalized(program(new(bytes.Buffer)).Model(), strings.Fields(line))
		text := strings.Join(got, " ")
		if err != nil {
			text = err.Error()
		}
		if text != want {
			t.Errorf("%s: %s\nwant %s", line, text, want)
		}
	}
}

// The help of a command has its own flags first, and none that are only the daemon's.
func TestHelp(t *testing.T) {
	for line, want := range map[string][]string{
		"--help":                   {"usage: prog [flags] [command]", "Does things.", "Commands:", "run", "tail", "Flags of the daemon:", "--config.file", "Flags of every command:", "--log.level"},
		"run --help":               {"usage: prog run [flags]\n", "Runs.", "Flags:", "--config.file", "Flags of every command:", "--log.level"},
		"tail --help":              {"usage: prog tail [flags]\n", "Follows.", "Flags:", "--sink", "Flags of every command:", "--help", "--log.level"},
		"check-config --help":      {"usage: prog check-config FILE\n", "Checks.", "Arguments:", "The file.", "Flags of every command:"},
		"dead-letters --help":      {"usage: prog dead-letters [flags] <command>\n", "Flags:", "--sink", "Commands:", "list", "Lists.", "Flags of every command:"},
		"dead-letters list --help": {"usage: prog dead-letters list [flags]\n", "Flags:", "--sink", "--[no-]json", "Flags of every command:"},
	} {
		var out bytes.Buffer
		func() {
			defer func() { _ = recover() }()
			_, _ = program(&out).Parse(strings.Fields(line))
		}()
		got, at := out.String(), 0
		for _, w := range want {
			i := strings.Index(got[at:], w)
			if i < 0 {
				t.Errorf("%s: no %q behind what comes before it:\n%s", line, w, got)
				break
			}
			at += i
		}
		if line != "--help" && line != "run --help" && strings.Contains(got, "config.file") {
			t.Errorf("%s: %s", line, got)
		}
	}
}

func TestRoff(t *testing.T) {
	for in, want := range map[string]string{
		"--a-b":   `\-\-a\-b`,
		".x\n'y'": `\&.x` + "\n" + `\(aqy\(aq`,
		`a\b`:     `a\eb`,
	} {
		if got := roff(in); got != want {
			t.Errorf("%q: %q, not %q", in, got, want)
		}
	}
}
