//go:build real

package package_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	within      = 5 * time.Minute
	makeTimeout = 15 * time.Minute
	oldVersion  = "0.0.1"
	newVersion  = "0.0.2"

	unitPath   = "/usr/lib/systemd/system/hmcnotifyd.service"
	configPath = "/etc/hmcnotifyd/hmcnotifyd.yaml"
)

// packages are the two files that one version is installed from.
type packages struct{ deb, rpm string }

// build makes the packages of a version.
func build(t *testing.T, version string) packages {
	t.Helper()
	dir := t.TempDir()
	out, status := program.Output(t, makeTimeout, program.Look(t, "make", "make"), "-C", daemon.Root(t), "--no-print-directory",
		"package", "VERSION="+version, "PLATFORMS="+runtime.GOARCH, "DIST="+dir)
	if status != 0 {
		t.Fatalf("make package: exit status %d\n%s", status, out)
	}
	return packagesIn(t, dir, version)
}

// packagesIn finds those for this machine.
func packagesIn(t *testing.T, dir, version string) packages {
	t.Helper()
	one := func(pattern string) string {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		found = slices.DeleteFunc(found, func(name string) bool {
			return !strings.Contains(name, runtime.GOARCH) && !strings.Contains(name, archs[runtime.GOARCH])
		})
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %v %v", pattern, found, err)
		}
		return found[0]
	}
	return packages{deb: one("hmcnotifyd_" + version + "-1_*.deb"), rpm: one("hmcnotifyd-" + version + "-1.*.rpm")}
}

// root is a Debian system in a directory, in which packages are installed.
type root struct {
	t   *testing.T
	dir string
}

// newRoot makes a small system in a directory, with the release of the one that the test runs on. It has no systemd: a systemctl in its
// place writes down what it is asked to do.
func newRoot(t *testing.T, dir string) {
	t.Helper()
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		t.Fatal(err)
	}
	codename := regexp.MustCompile(`(?m)^VERSION_CODENAME=(\w+)$`).FindSubmatch(release)
	if codename == nil {
		t.Fatal("/etc/os-release names no release")
	}
	r := &root{t, dir}
	out, status := program.Output(t, makeTimeout, program.Look(t, "mmdebstrap", "mmdebstrap"), "--variant=apt", "--include=passwd", string(codename[1]), r.dir)
	if status != 0 {
		t.Fatalf("mmdebstrap: exit status %d\n%s", status, out)
	}
	// Nothing in it has to outlast a power cut.
	r.write("/etc/dpkg/dpkg.cfg.d/fast", "force-unsafe-io\n", 0o644)
	r.write("/usr/bin/systemctl", "#!/bin/sh\necho \"$*\" >>/systemctl.log\n", 0o755)
	if err := os.MkdirAll(r.path("/run/systemd/system"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (r *root) path(name string) string { return filepath.Join(r.dir, filepath.FromSlash(name)) }

func (r *root) write(name, text string, mode fs.FileMode) {
	r.t.Helper()
	err := os.WriteFile(r.path(name), []byte(text), mode)
	if err == nil {
		err = os.Chmod(r.path(name), mode)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *root) read(name string) string {
	r.t.Helper()
	text, err := os.ReadFile(r.path(name))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

// run runs a command in the system, as root.
func (r *root) run(args ...string) (string, int) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), program.Look(r.t, "chroot", "coreutils"), append([]string{r.dir}, args...)...)
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	return program.OutputOf(r.t, within, cmd)
}

// must is run for what has to succeed.
func (r *root) must(args ...string) string {
	r.t.Helper()
	out, status := r.run(args...)
	if status != 0 {
		r.t.Fatalf("%q: exit status %d\n%s", args, status, out)
	}
	return out
}

// asked returns what systemctl was asked to do since it was asked for last.
func (r *root) asked() []string {
	r.t.Helper()
	text, err := os.ReadFile(r.path("/systemctl.log"))
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	if err := os.RemoveAll(r.path("/systemctl.log")); err != nil {
		r.t.Fatal(err)
	}
	return strings.FieldsFunc(string(text), func(c rune) bool { return c == '\n' })
}

func (r *root) wantAsked(what string, want ...string) {
	r.t.Helper()
	if got := r.asked(); !slices.Equal(got, want) {
		r.t.Errorf("%s: systemctl was asked %q, not %q", what, got, want)
	}
}

// left are the files and directories whose name has the program's.
func (r *root) left() []string {
	r.t.Helper()
	var all []string
	err := filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.Contains(d.Name(), "hmcnotifyd") {
			all = append(all, strings.TrimPrefix(path, r.dir))
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// checkFiles looks at what both packages install, and at whom it belongs to.
func (r *root) checkFiles() {
	r.t.Helper()
	entry := regexp.MustCompile(`^hmcnotifyd:x:(\d+):(\d+):[^:]*:/nonexistent:/usr/sbin/nologin\n$`).FindStringSubmatch(r.must("getent", "passwd", "hmcnotifyd"))
	if entry == nil {
		r.t.Fatal("the user hmcnotifyd is not as it should be")
	}
	gid, err := strconv.Atoi(entry[2])
	if err != nil {
		r.t.Fatal(err)
	}
	for name, want := range map[string]struct {
		mode  fs.FileMode
		group int
	}{
		"/usr/bin/hmcnotifyd":         {0o755, 0},
		unitPath:                      {0o644, 0},
		"/etc/hmcnotifyd":             {fs.ModeDir | 0o750, gid},
		"/etc/hmcnotifyd/credentials": {fs.ModeDir | 0o700, 0},
		configPath:                    {0o640, gid},
		"/etc/default/hmcnotifyd":     {0o644, 0},
		"/usr/share/doc/hmcnotifyd":   {fs.ModeDir | 0o755, 0},
		"/usr/share/doc/hmcnotifyd/config.example.yaml":        {0o644, 0},
		"/usr/share/doc/hmcnotifyd/web.yaml":                   {0o644, 0},
		"/usr/share/doc/hmcnotifyd/docs":                       {fs.ModeDir | 0o755, 0},
		"/usr/share/doc/hmcnotifyd/docs/hmc-setup.md":          {0o644, 0},
		"/usr/share/bash-completion/completions/hmcnotifyd":    {0o644, 0},
		"/usr/share/fish/vendor_completions.d/hmcnotifyd.fish": {0o644, 0},
		"/usr/share/man/man1/hmcnotifyd.1.gz":                  {0o644, 0},
	} {
		info, err := os.Stat(r.path(name))
		if err != nil {
			r.t.Error(err)
			continue
		}
		if owner := info.Sys().(*syscall.Stat_t); info.Mode() != want.mode || owner.Uid != 0 || int(owner.Gid) != want.group {
			r.t.Errorf("%s: %v of %d:%d, not %v of 0:%d", name, info.Mode(), owner.Uid, owner.Gid, want.mode, want.group)
		}
	}
}

// TestPackages makes a release and the packages of another version, and looks at them. The parts share what takes long to make, and wait
// for each other only where they need to: what is installed is installed in one system.
func TestPackages(t *testing.T) {
	released, dir := release{t.TempDir()}, filepath.Join(t.TempDir(), "root")
	together := func(name string, parts map[string]func(t *testing.T)) {
		if !t.Run(name, func(t *testing.T) {
			for name, part := range parts {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					part(t)
				})
			}
		}) {
			t.FailNow()
		}
	}
	together("make", map[string]func(t *testing.T){
		"release": func(t *testing.T) {
			makeRelease(t, released, ":", strings.Join(slices.Sorted(maps.Keys(archs)), " "), newKey(t))
		},
		"root": func(t *testing.T) { newRoot(t, dir) },
	})
	older := released.packages(t)
	together("look", map[string]func(t *testing.T){
		"release":      func(t *testing.T) { testRelease(t, released) },
		"binaries":     func(t *testing.T) { testBinaries(t, released) },
		"links":        func(t *testing.T) { testLinks(t, released, older) },
		"image":        func(t *testing.T) { testImage(t, released) },
		"reproducible": func(t *testing.T) { testReproducible(t, released) },
		"yum":          func(t *testing.T) { testYum(t, released) },
		"pages":        func(t *testing.T) { testPages(t, older) },
		"install": func(t *testing.T) {
			newer := build(t, newVersion)
			t.Run("deb", func(t *testing.T) { testDeb(t, &root{t, dir}, older, newer) })
			t.Run("apt", func(t *testing.T) { testApt(t, &root{t, dir}, released) })
			t.Run("rpm", func(t *testing.T) { testRpm(t, &root{t, dir}, older, newer) })
		},
	})
}

// testDeb goes the whole way of a package on Debian: installed, configured, started as the unit starts it, reloaded, upgraded with the
// configuration kept, stopped, removed, purged.
func testDeb(t *testing.T, r *root, older, newer packages) {
	// The new version has another configuration to begin with: that must not touch the one that somebody has changed.
	changed := otherTemplate(t, newer.deb)
	install := func(deb string, more ...string) string {
		t.Helper()
		data, err := os.ReadFile(deb)
		if err != nil {
			t.Fatal(err)
		}
		r.write("/tmp/package.deb", string(data), 0o644)
		return r.must(append(append([]string{"dpkg"}, more...), "-i", "/tmp/package.deb")...)
	}

	out := install(older.deb)
	if !strings.Contains(out, "is installed and not started yet: "+configPath) {
		t.Errorf("dpkg -i says\n%s", out)
	}
	r.wantAsked("install", "daemon-reload")
	r.checkFiles()
	if out, status := r.run("dpkg", "--verify", "hmcnotifyd"); status != 0 || out != "" {
		t.Errorf("dpkg --verify: exit status %d\n%s", status, out)
	}
	if conffiles := r.must("dpkg-query", "-W", "-f", "${Conffiles}", "hmcnotifyd"); !strings.Contains(conffiles, configPath+" ") ||
		!strings.Contains(conffiles, "/etc/default/hmcnotifyd ") || strings.Count(conffiles, "/etc/") != 2 {
		t.Errorf("conffiles: %s", conffiles)
	}
	if out := r.must("hmcnotifyd", "version"); !strings.HasPrefix(out, "hmcnotifyd "+oldVersion+"\n") {
		t.Errorf("version: %s", out)
	}
	// As installed it lacks the password, and nothing else.
	out, status := r.asDaemon("hmcnotifyd", "check-config", configPath)
	if status != 1 || !strings.HasPrefix(out, configPath+":") || !strings.Contains(out, "hmc-east.password cannot be read: no such file") || strings.Count(out, "\n") != 1 {
		t.Errorf("check-config: exit status %d\n%s", status, out)
	}

	sim, err := hmcsim.Start(hmcsim.Options{Rate: 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close() })
	url := r.configure(sim)
	if out, status := r.asDaemon("hmcnotifyd", "check-config", "--online", configPath); status != 0 || !strings.Contains(out, "everything works") {
		t.Errorf("check-config --online: exit status %d\n%s", status, out)
	}
	edited := r.read(configPath)

	d := r.start(url)
	out, status = r.asDaemon("hmcnotifyd", "send-test", "--url="+url, "--sink=journal")
	if status != 0 || !strings.Contains(out, "delivered in") {
		t.Errorf("send-test: exit status %d\n%s", status, out)
	}
	d.process.AwaitOutput(t, `"type":"bridge-test"`, within)

	// What ExecReload does.
	mark := d.notify.mark()
	r.write(configPath, edited+"  - {name: second, log: {output: /var/lib/hmcnotifyd/events.log}}\n", 0o640)
	r.must("chgrp", "hmcnotifyd", configPath)
	r.unitReload(d.process)
	d.notify.await(t, mark, `^RELOADING=1$`, `^MONOTONIC_USEC=\d+$`, `^READY=1$`)
	if _, status := r.asDaemon("hmcnotifyd", "send-test", "--url="+url, "--sink=second"); status != 0 {
		t.Error("after the reload there is no second sink")
	}
	edited = r.read(configPath)

	out = install(changed, "--force-confdef", "--force-confold")
	r.wantAsked("upgrade", "daemon-reload", "--quiet is-active hmcnotifyd", "restart hmcnotifyd")
	if r.read(configPath) != edited || !strings.Contains(r.read("/etc/default/hmcnotifyd"), "--web.listen-address=") {
		t.Error("the upgrade has changed the configuration")
	}
	if !strings.Contains(r.read(configPath+".dpkg-dist"), "# a new template") || strings.Contains(out, "not started yet") {
		t.Errorf("the new template is not there, or the upgrade takes itself for an installation:\n%s", out)
	}
	r.checkFiles()

	mark = d.notify.mark()
	if status := d.process.Terminate(t, daemon.StopTimeout); status != 0 {
		t.Errorf("the daemon ended with %d", status)
	}
	d.notify.await(t, mark, `^STOPPING=1$`)
	if sim.Sessions() != 0 {
		t.Errorf("%d sessions are left on the HMC", sim.Sessions())
	}
	stopped := time.Now()
	d = r.start(url) // what restart would do: the new program, with the configuration and what is stored
	out, status = r.asDaemon("hmcnotifyd", "replay", "--url="+url, "--sink=second", "--since=1h", "--until="+stopped.Format(time.RFC3339Nano), "--dry-run")
	if status != 0 || !regexp.MustCompile(`\b[1-9]\d* events?\b`).MatchString(out) {
		t.Errorf("of what the old program has stored: exit status %d\n%s", status, out)
	}
	if out := r.must("hmcnotifyd", "version"); !strings.HasPrefix(out, "hmcnotifyd "+newVersion+"\n") {
		t.Errorf("version: %s", out)
	}
	d.process.Terminate(t, daemon.StopTimeout)

	// A configuration that the new program does not accept: the old one runs on.
	r.write(configPath, strings.Replace(edited, "userid:", "usreid:", 1), 0o640)
	if out := install(changed, "--force-confold"); !strings.Contains(out, "was not restarted: correct "+configPath) || !strings.Contains(out, "usreid") {
		t.Errorf("an upgrade with a configuration that does not do says\n%s", out)
	}
	r.wantAsked("upgrade with a mistake", "daemon-reload", "--quiet is-active hmcnotifyd")

	r.must("dpkg", "-r", "hmcnotifyd")
	r.wantAsked("remove", "--no-reload disable --now hmcnotifyd", "daemon-reload")
	for _, name := range []string{"/usr/bin/hmcnotifyd", unitPath, "/usr/share/doc/hmcnotifyd", "/usr/share/man/man1/hmcnotifyd.1.gz"} {
		if _, err := os.Stat(r.path(name)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
	if !strings.Contains(r.read(configPath), "usreid") {
		t.Error("the configuration is gone before the package is purged")
	}
	r.must("dpkg", "-P", "hmcnotifyd")
	r.wantAsked("purge", "daemon-reload")
	if left := r.left(); len(left) != 0 {
		t.Errorf("after a purge there is still %q", left)
	}
}

// testRpm looks at the package with rpm's own programs, and installs and removes it with them. What it depends on is not there under the
// names that rpm knows; its scripts run as on a system that has it.
func testRpm(t *testing.T, r *root, older, newer packages) {
	rpm := program.Look(t, "rpm", "rpm")
	query := func(args ...string) string {
		t.Helper()
		out, status := program.Output(t, within, rpm, append([]string{"-qp"}, args...)...)
		if status != 0 {
			t.Fatalf("rpm -qp %q: exit status %d\n%s", args, status, out)
		}
		return out
	}
	if out := query("--configfiles", older.rpm); out != "/etc/default/hmcnotifyd\n"+configPath+"\n" {
		t.Errorf("configuration files: %q", out)
	}
	// %config(noreplace): what somebody has changed stays.
	flags := query("--queryformat", "[%{FILENAMES} %{FILEFLAGS:fflags}\n]", older.rpm)
	if !strings.Contains(flags, configPath+" cn\n") || !strings.Contains(flags, "/etc/default/hmcnotifyd cn\n") {
		t.Errorf("flags of files:\n%s", flags)
	}
	if out := query("--queryformat", "%{NAME} %{VERSION} %{LICENSE} %{BUILDHOST} %{ARCH}", older.rpm); !regexp.MustCompile(`^hmcnotifyd 0\.0\.1 Apache-2\.0 localhost \w+$`).MatchString(out) {
		t.Error(out)
	}
	// The status of rpm2cpio does not count: it compares with a size that nfpm does not give.
	list, status := program.Output(t, within, program.Look(t, "sh", "dash"), "-c",
		program.Look(t, "rpm2cpio", "rpm2cpio")+" "+older.rpm+" | "+program.Look(t, "cpio", "cpio")+" --quiet -t")
	if status != 0 || !strings.Contains(list, "/usr/bin/hmcnotifyd\n") || !strings.Contains(list, "/usr/share/zsh/site-functions/_hmcnotifyd\n") ||
		!strings.Contains(list, "/usr/share/licenses/hmcnotifyd/LICENSE\n") {
		t.Errorf("rpm2cpio: exit status %d\n%s", status, list)
	}

	in := func(args ...string) string {
		t.Helper()
		out, status := program.Output(t, within, rpm, append([]string{"--root", r.dir, "--nodeps"}, args...)...)
		if status != 0 {
			t.Fatalf("rpm %q: exit status %d\n%s", args, status, out)
		}
		return out
	}
	if out := in("-i", older.rpm); !strings.Contains(out, "is installed and not started yet") {
		t.Errorf("rpm -i says\n%s", out)
	}
	r.wantAsked("install", "daemon-reload")
	r.checkFiles()
	if out, status := program.Output(t, within, rpm, "--root", r.dir, "-V", "--nodeps", "hmcnotifyd"); status != 0 {
		t.Errorf("rpm -V: exit status %d\n%s", status, out)
	}

	sim, err := hmcsim.Start(hmcsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close() })
	r.configure(sim)
	edited := r.read(configPath)
	in("-U", newer.rpm)
	r.wantAsked("upgrade", "daemon-reload", "--quiet is-active hmcnotifyd", "restart hmcnotifyd")
	r.checkFiles()
	if r.read(configPath) != edited {
		t.Error("the upgrade has changed the configuration")
	}
	if out := r.must("hmcnotifyd", "version"); !strings.HasPrefix(out, "hmcnotifyd "+newVersion+"\n") {
		t.Errorf("version: %s", out)
	}
	in("-e", "hmcnotifyd")
	r.wantAsked("remove", "--no-reload disable --now hmcnotifyd", "daemon-reload")
	// What somebody has made or changed stays, and what the daemon has stored.
	for _, name := range r.left() {
		if !strings.HasPrefix(name, "/etc/hmcnotifyd") && name != "/etc/default/hmcnotifyd.rpmsave" && name != "/var/lib/hmcnotifyd" {
			t.Errorf("%s is left", name)
		}
	}
	if r.read(configPath+".rpmsave") != edited {
		t.Error("the configuration is lost")
	}
}

// testPages reads the manual page and the completion of each shell with the programs that they are for.
func testPages(t *testing.T, p packages) {
	dir := t.TempDir()
	if out, status := program.Output(t, within, program.Look(t, "dpkg-deb", "dpkg"), "-x", p.deb, dir); status != 0 {
		t.Fatal(out)
	}
	share := func(name string) string { return filepath.Join(dir, "usr", "share", filepath.FromSlash(name)) }
	page, err := os.ReadFile(share("man/man1/hmcnotifyd.1.gz"))
	if err != nil {
		t.Fatal(err)
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(t.TempDir(), "hmcnotifyd.1")
	if err := os.WriteFile(source, text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, status := program.Output(t, within, program.Look(t, "groff", "groff-base"), "-ww", "-b", "-z", "-man", "-Tutf8", source)
	if status != 0 || out != "" {
		t.Errorf("groff warns: exit status %d\n%s", status, out)
	}
	out, status = program.Output(t, within, program.Look(t, "groff", "groff-base"), "-man", "-Tascii", "-P-cbou", source)
	for _, want := range []string{"hmcnotifyd " + oldVersion, "send-test [flags]", "--sink=SINK", "EXIT STATUS"} {
		if status != 0 || !strings.Contains(out, want) {
			t.Errorf("the manual page (exit status %d) lacks %q\n%s", status, want, out)
		}
	}

	path := "PATH=" + filepath.Join(dir, "usr", "bin") + string(os.PathListSeparator) + os.Getenv("PATH")
	for _, shell := range []struct {
		name, debianPackage, script string
		args                        []string
	}{
		{"bash", "bash", `source ` + share("bash-completion/completions/hmcnotifyd") + `
complete() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _hmcnotifyd; printf '%s\n' "${COMPREPLY[@]}"; }
complete hmcnotifyd send-; complete hmcnotifyd dead-letters replay --si; complete hmcnotifyd --log.level = de; complete hmcnotifyd check-config ""`, []string{"-c"}},
		{"fish", "fish", `source ` + share("fish/vendor_completions.d/hmcnotifyd.fish") + `
for line in "send-" "dead-letters replay --si" "--log.level=de"; complete -C "hmcnotifyd $line"; end`, []string{"--no-config", "-c"}},
		// The line editor of zsh cannot be had without a terminal: what it would call stands in for it.
		{"zsh", "zsh", `function compdef() {}; function compadd() { print -l -- ${(P)2} }; function _files() { print -- files }
source ` + share("zsh/vendor-completions/_hmcnotifyd") + `
words=(hmcnotifyd send-); CURRENT=2; _hmcnotifyd; words=(hmcnotifyd dead-letters replay --si); CURRENT=4; _hmcnotifyd
words=(hmcnotifyd --log.level=de); CURRENT=2; _hmcnotifyd; words=(hmcnotifyd check-config ""); CURRENT=3; _hmcnotifyd`, []string{"-f", "-c"}},
	} {
		t.Run(shell.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), program.Look(t, shell.name, shell.debianPackage), append(shell.args, shell.script)...)
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), path, "HOME="+t.TempDir())
			out, status := program.OutputOf(t, within, cmd)
			got := strings.Fields(out)
			level := "--log.level=debug"
			if shell.name == "bash" {
				level = "debug" // it takes the sign for a word of its own
			}
			for _, want := range []string{"send-test", "--sink", level} {
				if !slices.Contains(got, want) {
					t.Errorf("exit status %d, %q lacks %s", status, got, want)
				}
			}
			if slices.Contains(got, "--config.file") || shell.name == "zsh" && !slices.Contains(got, "files") {
				t.Errorf("%q", got)
			}
		})
	}
}

// configure writes a configuration for a simulated HMC, and returns where the daemon's web side is going to be.
func (r *root) configure(sim *hmcsim.HMC) (url string) {
	r.t.Helper()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(program.FreePort(r.t)))
	text := r.read(configPath)
	for from, to := range map[string]string{
		"hosts: [hmc1.example.com]":    fmt.Sprintf("hosts: [\"127.0.0.1\"]\n    rest_port: %d\n    stomp_port: %d\n    rest_requests_per_minute: 6000", sim.RESTPort(), sim.StompPort()),
		"userid: monitor":              "userid: " + hmcsim.DefaultUserid,
		"#tls: {ca_file: hmc-ca.pem}":  "tls: {ca_file: hmc-ca.pem}",
		"#os_messages:":                "os_messages:",
		"#  - {cpc: \".*\", partition": "  - {cpc: \".*\", partition",
	} {
		if strings.Count(text, from) != 1 {
			r.t.Errorf("the configuration does not have %q once", from)
		}
		text = strings.Replace(text, from, to, 1)
	}
	r.write(configPath, "storage: {retain: 1h}\n"+text, 0o640)
	r.write("/etc/hmcnotifyd/hmc-ca.pem", string(sim.CACertPEM()), 0o644)
	r.write("/etc/hmcnotifyd/hmc-east.password", hmcsim.DefaultPassword+"\n", 0o640)
	r.must("chgrp", "hmcnotifyd", "/etc/hmcnotifyd/hmc-east.password", configPath)
	r.write("/etc/default/hmcnotifyd", "ARGS=\"--web.listen-address="+address+" --log.level=debug\"\n", 0o644)
	// What systemd makes of StateDirectory=.
	r.must("install", "-d", "-m", "700", "-o", "hmcnotifyd", "-g", "hmcnotifyd", "/var/lib/hmcnotifyd")
	return "http://" + address
}

// asDaemon runs a command in the system as the user that the daemon runs as.
func (r *root) asDaemon(args ...string) (string, int) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), program.Look(r.t, "chroot", "coreutils"), append([]string{"--userspec=hmcnotifyd:hmcnotifyd", r.dir}, args...)...)
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	return program.OutputOf(r.t, within, cmd)
}

// unit returns the values of a key of the installed unit.
func (r *root) unit(key string) []string {
	r.t.Helper()
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^`+key+`=(.*)$`).FindAllStringSubmatch(r.read(unitPath), -1) {
		all = append(all, m[1])
	}
	if len(all) == 0 {
		r.t.Fatalf("the unit has no %s", key)
	}
	return all
}

// service is the daemon, started as systemd would.
type service struct {
	process *program.Process
	notify  *notifySocket
}

// start does what systemd does with the unit, as far as that concerns the program: its command line with the variables in it, its user,
// the socket that it tells its state to, the watchdog.
func (r *root) start(url string) *service {
	r.t.Helper()
	s := &service{notify: listen(r.t, r.path("/run/notify"))}
	flags := regexp.MustCompile(`(?m)^ARGS="(.*)"$`).FindStringSubmatch(r.read("/etc/default/hmcnotifyd"))
	if flags == nil || !slices.Contains(r.unit("EnvironmentFile"), "-/etc/default/hmcnotifyd") {
		r.t.Fatal("the unit or its file of flags is not as it should be")
	}
	command := strings.NewReplacer("${STATE_DIRECTORY}", "/var/lib/hmcnotifyd", "$ARGS", flags[1]).Replace(r.unit("ExecStart")[0])
	if strings.Contains(command, "$") || r.unit("User")[0] != "hmcnotifyd" || r.unit("Type")[0] != "notify" {
		r.t.Fatalf("the unit starts %s", command)
	}
	s.process = program.Start(r.t, program.Options{
		Name: "hmcnotifyd", Path: program.Look(r.t, "chroot", "coreutils"),
		Args: append([]string{"--userspec=hmcnotifyd:hmcnotifyd", r.dir}, strings.Fields(command)...),
		Env:  []string{"NOTIFY_SOCKET=/run/notify", "WATCHDOG_USEC=1000000"},
	})
	s.process.Await(r.t, within, func() error { return s.notify.look(0, `^READY=1$`, `^WATCHDOG=1$`, `^STATUS=1 of 1 HMCs connected$`) })
	out, status := r.asDaemon("hmcnotifyd", "dead-letters", "list", "--url="+url)
	if status != 0 || out != "no dead letters\n" {
		r.t.Errorf("dead-letters list: exit status %d\n%s", status, out)
	}
	return s
}

// unitReload does what the unit does at a reload.
func (r *root) unitReload(p *program.Process) {
	r.t.Helper()
	for _, command := range r.unit("ExecReload") {
		if command == "/bin/kill -HUP $MAINPID" {
			p.Signal(r.t, syscall.SIGHUP)
			continue
		}
		if out, status := r.asDaemon(strings.Fields(command)...); status != 0 {
			r.t.Fatalf("%s: exit status %d\n%s", command, status, out)
		}
	}
}

// notifySocket is what systemd listens at.
type notifySocket struct {
	mu  sync.Mutex
	got []string
}

func listen(t *testing.T, path string) *notifySocket {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	n := new(notifySocket)
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			k, err := conn.Read(buf)
			if err != nil {
				return
			}
			n.mu.Lock()
			n.got = append(n.got, strings.Split(string(buf[:k]), "\n")...)
			n.mu.Unlock()
		}
	}()
	return n
}

// mark is where what comes from now on begins.
func (n *notifySocket) mark() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.got)
}

// look says which of the states has not come in this order since the mark.
func (n *notifySocket) look(mark int, states ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	rest := n.got[mark:]
	for _, state := range states {
		i := slices.IndexFunc(rest, regexp.MustCompile(state).MatchString)
		if i < 0 {
			return fmt.Errorf("%s was not told: %q", state, n.got[mark:])
		}
		rest = rest[i+1:]
	}
	return nil
}

func (n *notifySocket) await(t *testing.T, mark int, states ...string) {
	t.Helper()
	program.Await(t, within, func() error { return n.look(mark, states...) })
}

// otherTemplate makes a package of one, whose configuration to begin with is another.
func otherTemplate(t *testing.T, deb string) string {
	t.Helper()
	tool := program.Look(t, "dpkg-deb", "dpkg")
	dir := filepath.Join(t.TempDir(), "package")
	if out, status := program.Output(t, within, tool, "-R", deb, dir); status != 0 {
		t.Fatal(out)
	}
	path := filepath.Join(dir, filepath.FromSlash(configPath))
	text, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, append(text, "# a new template\n"...), 0o640)
	}
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), "changed.deb")
	if out, status := program.Output(t, within, tool, "-Znone", "-b", dir, changed); status != 0 {
		t.Fatal(out)
	}
	return changed
}
