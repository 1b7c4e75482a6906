//go:build real

package realtest_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// TestReadmeConfiguration checks the configuration that a new user copies.
func TestReadmeConfiguration(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(daemon.Root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("README.md shows no configuration")
	}
	// In a list the block is indented; that is no part of it.
	text := regexp.MustCompile(`(?m)^   `).ReplaceAll(block[1], nil)
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"hmcnotifyd.yaml": text, "hmc-ca.pem": certs.NewAuthority(t).PEM(), "hmc-east.password": []byte("secret\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, status := daemon.Run(t, 5*time.Minute, "check-config", filepath.Join(dir, "hmcnotifyd.yaml")); status != 0 {
		t.Errorf("check-config: exit status %d\n%s", status, out)
	}
}

// TestGettingStarted does what docs/getting-started.md has a new user type, on other ports, and sees what it says that is to be seen.
func TestGettingStarted(t *testing.T) {
	t.Parallel()
	const within = 5 * time.Minute
	text, err := os.ReadFile(filepath.Join(daemon.Root(t), "docs", "getting-started.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, guide, _ := strings.Cut(string(text), "\n## With a simulated HMC\n")
	guide, _, _ = strings.Cut(guide, "\n## ")
	var blocks, kinds []string
	ports := [4]int{program.FreePort(t), program.FreePort(t), program.FreePort(t), program.FreePort(t)}
	replace := strings.NewReplacer(
		"simulate ", fmt.Sprintf("simulate --rest-port=%d --stomp-port=%d ", ports[0], ports[1]),
		"    userid: hmcuser\n", fmt.Sprintf("    rest_port: %d\n    stomp_port: %d\n    userid: hmcuser\n", ports[0], ports[1]),
		"127.0.0.1:8080", fmt.Sprintf("127.0.0.1:%d", ports[2]),
		"--log.format=console", fmt.Sprintf("--log.format=console --web.listen-address=127.0.0.1:%d", ports[3]),
	)
	for _, m := range regexp.MustCompile("(?s)```(\\w+)\n(.*?)```").FindAllStringSubmatch(guide, -1) {
		kinds, blocks = append(kinds, m[1]), append(blocks, replace.Replace(m[2]))
	}
	if strings.Join(kinds, " ") != "sh sh yaml sh sh text json" {
		t.Fatalf("the guide has blocks of %q", kinds)
	}
	prepare, simulate, configuration, run, slack, command, message := blocks[0], blocks[1], blocks[2], blocks[3], blocks[4], blocks[5], blocks[6]

	// A copy of the repository in which the program is built already.
	base := t.TempDir()
	for name, target := range map[string]string{"hmcnotifyd": daemon.Binary(t), "docs": filepath.Join(daemon.Root(t), "docs")} {
		if err := os.Symlink(target, filepath.Join(base, name)); err != nil {
			t.Fatal(err)
		}
	}
	dir, shell := filepath.Join(base, "try"), program.Look(t, "sh", "dash")
	in := func(dir, script string) (string, int) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), shell, "-e", "-c", script)
		cmd.Dir = dir
		return program.OutputOf(t, within, cmd)
	}
	terminal := func(name, script, redirected string) *program.Process {
		t.Helper()
		return program.Start(t, program.Options{Name: name, Path: shell, Dir: dir, Args: []string{"-c", "exec " + strings.TrimSpace(script) + redirected}})
	}
	rest, built := strings.CutPrefix(prepare, "make build\n")
	if out, status := in(base, rest); !built || status != 0 {
		t.Fatalf("%s: exit status %d\n%s", prepare, status, out)
	}
	keyboard := filepath.Join(dir, "keyboard")
	if err := syscall.Mkfifo(keyboard, 0o600); err != nil {
		t.Fatal(err)
	}
	simulator := terminal("simulate", simulate, " <>keyboard")
	simulator.AwaitOutput(t, "# Commands are read from standard input", within)
	typed := func(line string) {
		t.Helper()
		if err := os.WriteFile(keyboard, []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "hmcnotifyd.yaml"), []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}

	lines := strings.Split(strings.TrimSpace(run), "\n")
	if len(lines) != 3 {
		t.Fatalf("the daemon is started by %q", lines)
	}
	out, status := in(dir, lines[1])
	if status != 1 || !strings.Contains(out, "connection refused") || strings.Count(out, "FAILED") > 1 {
		t.Errorf("%s: exit status %d\n%s", lines[1], status, out)
	}
	d := terminal("hmcnotifyd", lines[2], "")
	d.AwaitOutput(t, "bridge-connected", within)

	// `go run` does not end with its parent: what it runs is built, and started.
	write, ran := strings.CutSuffix(slack, "go run slack.go\n")
	if out, status := in(dir, write+"go build -o slack slack.go"); !ran || status != 0 {
		t.Fatalf("exit status %d\n%s", status, out)
	}
	consumer := terminal("slack", "./slack", "")
	typed(command)
	changing := regexp.MustCompile(`\((\w+) for [^)]*\)|"ts": \d+`)
	shown := func(s string) string { return strings.TrimSpace(changing.ReplaceAllString(s, "$1")) }
	consumer.Await(t, within, func() error {
		if got := shown(consumer.Output()); !strings.Contains(got, shown(message)) {
			return fmt.Errorf("Slack has got\n%s\nand not\n%s", got, shown(message))
		}
		return nil
	})
	d.AwaitOutput(t, "partition PART1 on CPC1: active -> stopping", within)

	consumer.Kill()
	d.Await(t, within, func() error { // it is refused until the partition has come to rest
		if !strings.Contains(simulator.Output(), "# partition PART1 on CPC1 starts") {
			typed("start PART1\n")
			return errors.New("the partition is not started")
		}
		return nil
	})
	d.AwaitOutput(t, "partition PART1 on CPC1: starting -> active", within)
	consumer = terminal("slack", "./slack", "")
	consumer.AwaitOutput(t, "starting -&gt; active", within)
	typed("restart 1\n")
	d.AwaitOutput(t, "bridge-disconnected", within)
	d.AwaitOutput(t, "bridge-gap", within)
	if status := d.Terminate(t, daemon.StopTimeout); status != 0 {
		t.Errorf("the daemon ended with %d", status)
	}
}

// TestLibraryProgram builds the program of docs/library.md in a module of its own, as that says, and lets it follow a partition through
// whatever may happen: it shows each message once.
func TestLibraryProgram(t *testing.T) {
	t.Parallel()
	const within = 5 * time.Minute
	text, err := os.ReadFile(filepath.Join(daemon.Root(t), "docs", "library.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```(?:go|sh)\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 3 {
		t.Fatalf("docs/library.md has %d blocks", len(blocks))
	}
	code, commands, trust := blocks[0][1], blocks[1][1], blocks[2][1]
	sim := hmctest.Start(t, hmcsim.Options{StepDelay: 10 * time.Millisecond})
	partition, err := sim.Partition("PART1")
	if err != nil {
		t.Fatal(err)
	}
	ports := fmt.Sprintf("RESTPort: %d, StompPort: %d,\n\t\tHosts: ", sim.RESTPort(), sim.StompPort())
	code = strings.NewReplacer("Hosts: ", ports, "hmc1.example.com", sim.Host(), `"monitor"`, `"`+hmcsim.DefaultUserid+`"`).Replace(code)

	base := t.TempDir()
	if err := os.Symlink(daemon.Root(t), filepath.Join(base, "hmcnotifyd")); err != nil {
		t.Fatal(err)
	}
	commands, run, _ := strings.Cut(commands, "HMC_PASSWORD=")
	if !strings.HasSuffix(run, " go run .\n") || strings.Count(code, "\n\tfor ") != 1 {
		t.Fatalf("the program is run by %q", run)
	}
	// As it stands, with a file of certificates in the environment, and with the lines that read one.
	withTLS := strings.Replace(code, "\tfor ", trust+"\tfor ", 1)
	withTLS = strings.Replace(withTLS, `"context"`, "\"context\"\n\"crypto/tls\"\n\"crypto/x509\"", 1)
	var programs []*program.Process
	for name, code := range map[string]string{"plain": code, "tls": withTLS} {
		dir := filepath.Join(base, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{"main.go": code, "hmc-ca.pem": string(sim.CACertPEM())} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.CommandContext(t.Context(), program.Look(t, "sh", "dash"), "-e", "-c", commands+"go build -o console .")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOFLAGS=-trimpath", "GOWORK=off", "GONOSUMDB=*")
		if out, status := program.OutputOf(t, within, cmd); status != 0 {
			t.Fatalf("exit status %d\n%s", status, out)
		}
		env := []string{"HMC_PASSWORD=" + hmcsim.DefaultPassword}
		if name == "plain" {
			env = append(env, "SSL_CERT_FILE="+filepath.Join(dir, "hmc-ca.pem"))
		}
		programs = append(programs, program.Start(t, program.Options{Name: name, Path: filepath.Join(dir, "console"), Dir: dir, Env: env}))
	}

	said := 0
	await := func() {
		t.Helper()
		for _, p := range programs {
			p.AwaitOutput(t, fmt.Sprintf("message %d.\n", said), within)
		}
	}
	say := func() {
		t.Helper()
		said++
		if _, err := sim.OSMessages(partition.ID, fmt.Sprintf("message %d.", said)); err != nil {
			t.Fatal(err)
		}
	}
	eventually := func(do func() error) {
		t.Helper()
		program.Await(t, within, do)
	}
	status := func(want string) func() error {
		return func() error {
			p, err := sim.Partition(partition.ID)
			if err == nil && p.Status != want {
				err = fmt.Errorf("it is %s", p.Status)
			}
			return err
		}
	}
	eventually(func() error { // both have begun: from then on nothing is lost
		if n := sim.Links(); n != len(programs) {
			return fmt.Errorf("%d links", n)
		}
		return nil
	})
	eventually(func() error {
		say()
		for _, p := range programs {
			if !strings.Contains(p.Output(), "message ") {
				return fmt.Errorf("%s has shown nothing", p.Output())
			}
		}
		return nil
	})
	first := said
	for _, happens := range []func(){
		func() {
			eventually(func() error { return sim.StopPartition(partition.ID) })
			eventually(status("stopped"))
			eventually(func() error { return sim.StartPartition(partition.ID) })
			eventually(status("active"))
		},
		func() { sim.ExpireSessions(true) },
		func() { sim.Broker().DropLinks() },
		func() {
			say()
			if err := sim.Restart(100 * time.Millisecond); err != nil {
				t.Fatal(err)
			}
		},
	} {
		happens()
		say()
		await()
	}
	for _, p := range programs {
		for n := first; n <= said; n++ {
			if times := strings.Count(p.Output(), fmt.Sprintf("message %d.\n", n)); times != 1 {
				t.Errorf("message %d was shown %d times:\n%s", n, times, p.Output())
			}
		}
	}
}
