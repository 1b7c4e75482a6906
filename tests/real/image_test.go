//go:build real

package realtest_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

const imageTimeout = 10 * time.Minute

// buildah runs the image builder with a storage of its own that is gone after
// the test, and without the kernel features that a machine which is a
// container itself does not have.
type buildah struct {
	path string
	env  []string
}

func newBuildah(t *testing.T) *buildah {
	t.Helper()
	path := program.Look(t, "buildah", "buildah")
	dir := t.TempDir()
	conf := filepath.Join(dir, "storage.conf")
	text := fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", filepath.Join(dir, "graph"), filepath.Join(dir, "run"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return &buildah{path: path, env: append(os.Environ(), "CONTAINERS_STORAGE_CONF="+conf, "BUILDAH_ISOLATION=chroot", "TMPDIR="+dir)}
}

func (b *buildah) command(t *testing.T, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = daemon.Root(t)
	cmd.Env = b.env
	return cmd
}

// run runs a buildah command that must succeed and returns its output.
func (b *buildah) run(t *testing.T, args ...string) string {
	t.Helper()
	out, status := program.OutputOf(t, imageTimeout, b.command(t, b.path, args...))
	if status != 0 {
		t.Fatalf("buildah %s: exit status %d\n%s", strings.Join(args, " "), status, out)
	}
	return strings.TrimSpace(out)
}

// goImage makes a stand-in for the Go base image, which needs no registry: a shell, what the Dockerfile
// calls, and the certificates of the public authorities. The machine's own Go is mounted into it.
func (b *buildah) goImage(t *testing.T) string {
	t.Helper()
	const name = "localhost/hmcnotifyd-test/golang"
	ctr := b.run(t, "from", "scratch")
	// What the tools are linked against goes along, to the same places.
	for _, tool := range []string{"sh", "cat", "mkdir"} {
		path, err := filepath.EvalSymlinks(program.Look(t, tool, "coreutils"))
		if err != nil {
			t.Fatal(err)
		}
		b.run(t, "copy", "--quiet", ctr, path, "/bin/"+tool)
		libs, _ := program.Output(t, time.Minute, program.Look(t, "ldd", "libc-bin"), path)
		for word := range strings.FieldsSeq(libs) {
			if filepath.IsAbs(word) {
				b.run(t, "copy", "--quiet", ctr, word, word)
			}
		}
	}
	b.run(t, "copy", "--quiet", ctr, "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt")
	b.run(t, "config", "--env", "PATH=/usr/local/go/bin:/bin", "--env", "HOME=/", "--env", "TMPDIR=/",
		"--env", "GOCACHE=/cache/build", "--env", "GOMODCACHE=/cache/mod", "--env", "GOTOOLCHAIN=local", ctr)
	b.run(t, "commit", "--quiet", "--rm", ctr, name)
	return name
}

func TestImage(t *testing.T) {
	t.Parallel()
	b := newBuildah(t)
	const image = "localhost/hmcnotifyd-test/hmcnotifyd:test"
	// The machine's own Go and caches: nothing large is copied, no module is fetched twice.
	goDirs := strings.Fields(output(t, "go", "env", "GOROOT", "GOCACHE", "GOMODCACHE"))
	mk := b.command(t, program.Look(t, "make", "make"), "image", "VERSION=1.2.3", "REVISION=abcdef")
	mk.Env = append(mk.Env,
		"BUILDER=buildah", "IMAGE="+image, "GO_IMAGE="+b.goImage(t),
		"IMAGE_BUILD_FLAGS=--volume "+goDirs[0]+":/usr/local/go:ro --volume "+goDirs[1]+":/cache/build --volume "+goDirs[2]+":/cache/mod")
	if out, status := program.OutputOf(t, imageTimeout, mk); status != 0 {
		t.Fatalf("make image: exit status %d\n%s", status, out)
	}

	ctr := b.run(t, "from", image)
	t.Run("configuration", func(t *testing.T) {
		var inspected struct {
			OCIv1 struct {
				Architecture string
				Config       struct {
					User         string
					Entrypoint   []string
					Cmd          []string
					Volumes      map[string]any
					ExposedPorts map[string]any
					Labels       map[string]string
				}
			}
		}
		if err := json.Unmarshal([]byte(b.run(t, "inspect", ctr)), &inspected); err != nil {
			t.Fatal(err)
		}
		config := inspected.OCIv1.Config
		_, volume := config.Volumes["/data"]
		_, port := config.ExposedPorts["10291/tcp"]
		if !port {
			_, port = config.ExposedPorts["10291"]
		}
		if config.User != "65532:65532" || !slices.Equal(config.Entrypoint, []string{"/hmcnotifyd"}) || len(config.Cmd) != 2 || !volume || !port ||
			config.Labels["org.opencontainers.image.version"] != "1.2.3" || inspected.OCIv1.Architecture != runtime.GOARCH {
			t.Errorf("%+v", inspected.OCIv1)
		}
	})

	t.Run("files", func(t *testing.T) {
		root := b.run(t, "mount", ctr)
		files := map[string]int64{}
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			name, err := filepath.Rel(root, path)
			files["/"+name] = info.Size()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		const certificates = "/etc/ssl/certs/ca-certificates.crt"
		if len(files) != 2 || files["/hmcnotifyd"] == 0 || files[certificates] == 0 || files[certificates] > 1<<20 {
			t.Errorf("the image holds more than program and certificates: %v", files)
		}
		t.Logf("%.1f MiB", float64(files["/hmcnotifyd"]+files[certificates])/(1<<20))
		info, err := os.Stat(filepath.Join(root, "data"))
		if err != nil {
			t.Fatal(err)
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || owner.Uid != 65532 || owner.Gid != 65532 || info.Mode().Perm() != 0o700 {
			t.Errorf("/data is not a directory for the image's own user alone: %v %+v", info.Mode(), owner)
		}
		b.run(t, "unmount", ctr)
	})

	t.Run("version", func(t *testing.T) {
		out := b.run(t, "run", ctr, "--", "/hmcnotifyd", "version")
		if !strings.Contains(out, "1.2.3") || !strings.Contains(out, "abcdef") {
			t.Errorf("version: %s", out)
		}
	})

	t.Run("check-config", func(t *testing.T) {
		// A directory that the image's own user can read.
		dir := t.TempDir()
		for path := dir; path != os.TempDir(); path = filepath.Dir(path) {
			if err := os.Chmod(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		config := "hmcs: [{name: a, hosts: [hmc.example.com], userid: u, password: p}]\nsinks: [{name: s, log: {output: stderr}}]\n"
		if err := os.WriteFile(filepath.Join(dir, "hmcnotifyd.yaml"), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		b.run(t, "run", "--volume", dir+":/etc/hmcnotifyd:ro", ctr, "--", "/hmcnotifyd", "check-config", "/etc/hmcnotifyd/hmcnotifyd.yaml")
	})
}

// output returns the standard output of a command that must succeed.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).Output()
	if err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out))
}
