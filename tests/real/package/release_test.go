//go:build real

package package_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// archs are the platforms of a release, and what an rpm calls them.
var archs = map[string]string{"amd64": "x86_64", "arm64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x"}

// release is what `make release` leaves.
type release struct{ dir string }

func (r release) path(parts ...string) string {
	return filepath.Join(append([]string{r.dir}, parts...)...)
}

func (r release) packages(t *testing.T) packages {
	t.Helper()
	return packagesIn(t, r.path("release"), oldVersion)
}

// makeRelease makes one, with a shell command before it that changes what must not matter.
func makeRelease(t *testing.T, r release, before, platforms, key string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program.Look(t, "sh", "dash"), "-c", before+`; exec "$0" "$@"`, program.Look(t, "make", "make"), "-C", daemon.Root(t),
		"--no-print-directory", "release", "VERSION="+oldVersion, "PLATFORMS="+platforms, "DIST="+r.dir, "RELEASE_KEY="+key)
	if out, status := program.OutputOf(t, makeTimeout, cmd); status != 0 {
		t.Fatalf("make release: exit status %d\n%s", status, out)
	}
}

// gpg runs gpg with a directory of its own.
type gpg struct {
	t    *testing.T
	home string
}

func newGPG(t *testing.T) *gpg {
	t.Helper()
	g := &gpg{t, t.TempDir()}
	t.Cleanup(func() {
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program.Look(t, "gpgconf", "gnupg"), "--kill", "all")
		cmd.Env = append(os.Environ(), "GNUPGHOME="+g.home)
		_ = cmd.Run()
	})
	return g
}

func (g *gpg) run(args ...string) (string, int) {
	g.t.Helper()
	cmd := exec.CommandContext(g.t.Context(), program.Look(g.t, "gpg", "gnupg"), append([]string{"--batch", "--quiet"}, args...)...)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+g.home)
	return program.OutputOf(g.t, within, cmd)
}

func (g *gpg) must(args ...string) string {
	g.t.Helper()
	out, status := g.run(args...)
	if status != 0 {
		g.t.Fatalf("gpg %q: exit status %d\n%s", args, status, out)
	}
	return out
}

// newKey makes a key that signs, and returns the file that it is in.
func newKey(t *testing.T) string {
	t.Helper()
	g := newGPG(t)
	g.must("--passphrase", "", "--quick-generate-key", "hmcnotifyd test <test@example.com>", "ed25519", "sign", "never")
	file := filepath.Join(t.TempDir(), "key.asc")
	if err := os.WriteFile(file, []byte(g.must("--armor", "--export-secret-keys")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// testRelease looks at what a release has besides its packages.
func testRelease(t *testing.T, r release) {
	// Who has the key can tell that each file is what was made.
	g := newGPG(t)
	g.must("--import", r.path("release", "hmcnotifyd.asc"))
	sums := string(readFile(t, r.path("release", "SHA256SUMS")))
	if out, status := g.run("--verify", r.path("release", "SHA256SUMS.asc"), r.path("release", "SHA256SUMS")); status != 0 {
		t.Errorf("gpg --verify: exit status %d\n%s", status, out)
	}
	check := exec.CommandContext(t.Context(), program.Look(t, "sha256sum", "coreutils"), "--check", "--strict", "--quiet", "SHA256SUMS")
	check.Dir = r.path("release")
	if out, status := program.OutputOf(t, within, check); status != 0 {
		t.Errorf("sha256sum: exit status %d\n%s", status, out)
	}
	var provenance struct {
		Type          string `json:"_type"`
		PredicateType string
		Subject       []struct {
			Name   string
			Digest struct{ SHA256 string }
		}
		Predicate struct {
			BuildDefinition struct{ ExternalParameters struct{ Version string } }
			RunDetails      struct{ Builder struct{ ID string } }
		}
	}
	if err := json.Unmarshal(readFile(t, r.path("release", "provenance.json")), &provenance); err != nil {
		t.Fatal(err)
	}
	if provenance.Type != "https://in-toto.io/Statement/v1" || provenance.PredicateType != "https://slsa.dev/provenance/v1" ||
		provenance.Predicate.BuildDefinition.ExternalParameters.Version != oldVersion || provenance.Predicate.RunDetails.Builder.ID == "" {
		t.Errorf("%+v", provenance)
	}
	told := ""
	for _, s := range provenance.Subject {
		told += s.Digest.SHA256 + "  " + s.Name + "\n"
	}
	var names []string
	for line := range strings.Lines(sums) {
		_, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if names = append(names, name); name != "provenance.json" && !strings.Contains(told, line) {
			t.Errorf("the provenance does not tell of %s", line)
		}
	}
	found, err := os.ReadDir(r.path("release"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if !slices.Contains(names, f.Name()) && !slices.Contains([]string{"SHA256SUMS", "SHA256SUMS.asc", "hmcnotifyd.asc"}, f.Name()) {
			t.Errorf("SHA256SUMS lacks %s", f.Name())
		}
	}

	// The list of what is in the program has each module that the program says it has, with a license.
	for arch := range archs {
		info, err := buildinfo.ReadFile(r.path("hmcnotifyd-linux-" + arch))
		if err != nil {
			t.Fatal(err)
		}
		var sbom struct {
			BOMFormat  string
			Components []struct {
				Name, Version string
				Licenses      []any
			}
		}
		if err := json.Unmarshal(readFile(t, r.path("release", "hmcnotifyd-"+oldVersion+"-linux-"+arch+".cdx.json")), &sbom); err != nil || sbom.BOMFormat != "CycloneDX" {
			t.Fatal(sbom.BOMFormat, err)
		}
		licensed := map[string]bool{}
		for _, c := range sbom.Components {
			licensed[c.Name+" "+c.Version] = len(c.Licenses) > 0
		}
		for _, m := range info.Deps {
			if !licensed[m.Path+" "+m.Version] {
				t.Errorf("%s: %s %s is not there, or without a license", arch, m.Path, m.Version)
			}
		}
		if _, ok := licensed["std "+info.GoVersion]; !ok && len(info.Deps) > 0 {
			t.Errorf("%s: the standard library is not there: %v", arch, slices.Sorted(maps.Keys(licensed)))
		}
	}
}

// testLinks follows the links of what is given away: each leads to something in it, or to a file of the same version in the repository.
func testLinks(t *testing.T, r release, p packages) {
	var (
		link = regexp.MustCompile(`\]\(([^)\s]+)\)`)
		code = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
		main = regexp.MustCompile(`hmcnotifyd/hmcnotifyd/((blob|tree)/)?main/`)
		of   = regexp.MustCompile(`(?:github\.com/hmcnotifyd/hmcnotifyd/(?:blob|tree)|raw\.githubusercontent\.com/hmcnotifyd/hmcnotifyd)/v` +
			regexp.QuoteMeta(oldVersion) + `/([\w./-]*\w)`)
	)
	untar := func(name string) string {
		t.Helper()
		dir := t.TempDir()
		if out, status := program.Output(t, within, program.Look(t, "tar", "tar"), "-x", "-C", dir, "-f", r.path("release", name)); status != 0 {
			t.Fatal(out)
		}
		return dir
	}
	deb := t.TempDir()
	if out, status := program.Output(t, within, program.Look(t, "dpkg-deb", "dpkg"), "-x", p.deb, deb); status != 0 {
		t.Fatal(out)
	}
	for what, given := range map[string]struct {
		dir   string
		least int // links to the repository
	}{
		"archive": {untar("hmcnotifyd-" + oldVersion + "-linux-" + runtime.GOARCH + ".tar.gz"), 100},
		"deb":     {filepath.Join(deb, "usr", "share", "doc", "hmcnotifyd"), 100},
		"chart":   {untar("hmcnotifyd-" + oldVersion + "-chart.tgz"), 20},
	} {
		n := 0
		err := filepath.WalkDir(given.dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || d.Name() == "hmcnotifyd" {
				return err
			}
			text := string(readFile(t, path))
			if main.MatchString(text) {
				t.Errorf("%s: %s leads to the main branch: %s", what, path, main.FindString(text))
			}
			for _, m := range of.FindAllStringSubmatch(text, -1) {
				n++
				if _, err := os.Stat(filepath.Join(daemon.Root(t), filepath.FromSlash(m[1]))); err != nil {
					t.Errorf("%s: %s leads to %s: %v", what, path, m[0], err)
				}
			}
			if filepath.Ext(path) != ".md" {
				return nil
			}
			for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(text, ""), -1) {
				target, _, _ := strings.Cut(m[1], "#")
				if target == "" || strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
					continue
				}
				if _, err := os.Stat(filepath.Join(filepath.Dir(path), filepath.FromSlash(target))); err != nil {
					t.Errorf("%s: %s leads to %s, which is not there", what, path, m[1])
				}
			}
			return nil
		})
		if err != nil || n < given.least {
			t.Errorf("%s: %d links to the repository: %v", what, n, err)
		}
	}
}

// testImage wants one image for each platform, that is the one of the Dockerfile, and runs that of this machine.
func testImage(t *testing.T, r release) {
	dir := t.TempDir()
	path := program.Look(t, "buildah", "buildah")
	buildah := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), path, append([]string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}, args...)...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "BUILDAH_ISOLATION=chroot", "TMPDIR="+dir)
		out, status := program.OutputOf(t, within, cmd)
		if status != 0 {
			t.Fatalf("buildah %q: exit status %d\n%s", args, status, out)
		}
		return strings.TrimSpace(out)
	}
	blobs := blobsOf(t, r)
	if out, status := program.Output(t, within, program.Look(t, "tar", "tar"), "-x", "-C", dir, "--one-top-level=layout", "-f", imageOf(r)); status != 0 {
		t.Fatal(out)
	}
	var list struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
			Platform    struct{ Architecture, OS string }
		}
	}
	if err := json.Unmarshal(blobs["index.json"], &list); err != nil || len(list.Manifests) != 1 || list.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != oldVersion {
		t.Fatalf("%s: %v", blobs["index.json"], err)
	}
	index := blobs["blobs/sha256/"+strings.TrimPrefix(list.Manifests[0].Digest, "sha256:")]
	if err := json.Unmarshal(index, &list); err != nil {
		t.Fatal(err)
	}
	platforms := map[string]bool{}
	for _, m := range list.Manifests {
		platforms[m.Platform.OS+"/"+m.Platform.Architecture] = true
	}
	for arch := range archs {
		if !platforms["linux/"+arch] || len(list.Manifests) != len(archs) {
			t.Errorf("the images are for %v", platforms)
		}
	}
	for name, data := range blobs {
		if hash, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && sum(data) != hash {
			t.Errorf("%s has the checksum %s", name, sum(data))
		}
	}
	container := buildah("from", "--quiet", "oci:layout:"+oldVersion) // it makes a name of this
	var inspected struct {
		OCIv1 struct {
			Config struct {
				User            string
				Entrypoint, Cmd []string
				Volumes         map[string]any
				Labels          map[string]string
			}
		}
	}
	if err := json.Unmarshal([]byte(buildah("inspect", container)), &inspected); err != nil {
		t.Fatal(err)
	}
	config := inspected.OCIv1.Config
	if _, volume := config.Volumes["/data"]; !volume || config.User != "65532:65532" || !slices.Equal(config.Entrypoint, []string{"/hmcnotifyd"}) || len(config.Cmd) != 2 ||
		config.Labels["org.opencontainers.image.version"] != oldVersion {
		t.Errorf("%+v", config)
	}
	if out := buildah("run", container, "--", "/hmcnotifyd", "version"); !strings.HasPrefix(out, "hmcnotifyd "+oldVersion+"\n") {
		t.Errorf("version: %s", out)
	}
}

func imageOf(r release) string { return r.path("release", "hmcnotifyd-"+oldVersion+"-image.tar") }

// blobsOf are the files of the release's image.
func blobsOf(t *testing.T, r release) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	archive := tar.NewReader(bytes.NewReader(readFile(t, imageOf(r))))
	for {
		h, err := archive.Next()
		if err != nil {
			break
		}
		var data bytes.Buffer
		if _, err := data.ReadFrom(archive); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			all[strings.TrimPrefix(h.Name, "./")] = data.Bytes()
		}
	}
	return all
}

// testReproducible wants the same bytes again, in another directory, time zone and with another umask. What tells of all platforms
// cannot be the same with one: of the image everything but the list must be.
func testReproducible(t *testing.T, r release) {
	again := release{t.TempDir()}
	makeRelease(t, again, "umask 077; export TZ=Asia/Tokyo LANG=tr_TR.UTF-8", runtime.GOARCH, "")
	files := 0
	err := filepath.WalkDir(again.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(again.dir, path)
		if err != nil {
			return err
		}
		all := strings.HasSuffix(name, "SHA256SUMS") || strings.HasSuffix(name, "provenance.json") || strings.HasSuffix(name, "Release")
		if all || strings.HasSuffix(name, "-image.tar") || strings.HasPrefix(name, "repository/yum/repodata/") {
			return nil
		}
		files++
		if !bytes.Equal(readFile(t, path), readFile(t, r.path(name))) {
			t.Errorf("%s has other bytes the second time", name)
		}
		return nil
	})
	if err != nil || files < 10 {
		t.Errorf("%d files: %v", files, err)
	}
	first, second := blobsOf(t, r), blobsOf(t, again)
	other := 0
	for name := range second {
		if _, ok := first[name]; !ok {
			other++
		}
	}
	if other != 1 {
		t.Errorf("of the image, %d blobs are others the second time", other)
	}
}

// testApt installs from the repository as its users do: who made it is checked.
func testApt(t *testing.T, r *root, rel release) {
	if err := os.CopyFS(r.path("/srv/repository"), os.DirFS(rel.path("repository"))); err != nil {
		t.Fatal(err)
	}
	r.write("/etc/apt/hmcnotifyd.list", "deb [signed-by=/srv/repository/hmcnotifyd.asc] file:/srv/repository/apt stable main\n", 0o644)
	apt := func(args ...string) (string, int) {
		t.Helper()
		return r.run(append([]string{"apt-get", "-q", "-y", "--no-install-recommends", "-o", "Dir::Etc::sourcelist=/etc/apt/hmcnotifyd.list", "-o", "Dir::Etc::sourceparts=-"}, args...)...)
	}
	for _, args := range [][]string{{"update"}, {"install", "hmcnotifyd"}} {
		if out, status := apt(args...); status != 0 || strings.Contains(out, "W: ") {
			t.Fatalf("apt-get %q: exit status %d\n%s", args, status, out)
		}
	}
	if out := r.must("hmcnotifyd", "version"); !strings.HasPrefix(out, "hmcnotifyd "+oldVersion+"\n") {
		t.Errorf("version: %s", out)
	}
	if out, status := apt("purge", "hmcnotifyd"); status != 0 {
		t.Errorf("apt-get purge: exit status %d\n%s", status, out)
	}
	// What somebody has put into it since is not taken.
	release := r.read("/srv/repository/apt/dists/stable/InRelease")
	r.write("/srv/repository/apt/dists/stable/InRelease", strings.Replace(release, "Components: main", "Components: mine", 1), 0o644)
	if out, status := apt("update"); status == 0 && !strings.Contains(out, "W: ") {
		t.Errorf("apt-get update takes a changed InRelease:\n%s", out)
	}
	for _, name := range []string{"/srv/repository", "/etc/apt/hmcnotifyd.list"} {
		if err := os.RemoveAll(r.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	r.asked()
}

// testYum has dnf read the repository, with and without a signature that fits.
func testYum(t *testing.T, rel release) {
	dnf := func() string {
		t.Helper()
		dir := t.TempDir()
		out, status := program.Output(t, within, program.Look(t, "dnf", "dnf"), "--quiet", "--assumeyes", "--installroot="+dir, "--releasever=1", "--setopt=reposdir="+dir,
			"--setopt=cachedir="+filepath.Join(dir, "cache"), "--repofrompath=h,file://"+rel.path("repository", "yum"), "--repo=h", "--setopt=h.repo_gpgcheck=1",
			"--setopt=h.gpgkey=file://"+rel.path("repository", "hmcnotifyd.asc"), "repoquery", "--location", "hmcnotifyd")
		if status != 0 {
			return ""
		}
		return out
	}
	for _, arch := range archs {
		name := "hmcnotifyd-" + oldVersion + "-1." + arch + ".rpm"
		if out := dnf(); !strings.Contains(out, rel.path("repository", "yum", name)+"\n") {
			t.Errorf("dnf does not find %s:\n%s", name, out)
		}
	}
	repomd := rel.path("repository", "yum", "repodata", "repomd.xml")
	text := readFile(t, repomd)
	defer func() { _ = os.WriteFile(repomd, text, 0o600) }()
	if err := os.WriteFile(repomd, bytes.Replace(text, []byte("<revision>"), []byte("<revision>1"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := dnf(); strings.Contains(out, ".rpm") {
		t.Errorf("dnf takes a changed repomd.xml:\n%s", out)
	}
}

// testBinaries looks at what `make build-all` builds, as a release does: static programs for each
// platform, of which the one for the watched machines themselves runs.
func testBinaries(t *testing.T, r release) {
	for arch, machine := range map[string]elf.Machine{
		"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "s390x": elf.EM_S390, "ppc64le": elf.EM_PPC64,
	} {
		file, err := elf.Open(r.path("hmcnotifyd-linux-" + arch))
		if err != nil {
			t.Error(err)
			continue
		}
		defer file.Close()
		if file.Machine != machine || file.Class != elf.ELFCLASS64 {
			t.Errorf("%s: %v, %v", arch, file.Machine, file.Class)
		}
		for _, segment := range file.Progs {
			if segment.Type == elf.PT_INTERP || segment.Type == elf.PT_DYNAMIC {
				t.Errorf("%s: not static: has a segment %v", arch, segment.Type)
			}
		}
	}
	qemu := program.Look(t, "qemu-s390x-static", "qemu-user-static")
	out, status := program.Output(t, within, qemu, r.path("hmcnotifyd-linux-s390x"), "version")
	if status != 0 || !strings.Contains(out, "linux/s390x") {
		t.Errorf("version: exit status %d\n%s", status, out)
	}
}
