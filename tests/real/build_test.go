//go:build real

package realtest_test

import (
	"debug/elf"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// TestBinaries builds what `make build-all` builds: static programs for each
// platform, of which the one for the watched machines themselves runs.
func TestBinaries(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	build := output(t, "make", "-C", daemon.Root(t), "--no-print-directory", "build-all", "DIST="+dir)
	for arch, machine := range map[string]elf.Machine{
		"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "s390x": elf.EM_S390, "ppc64le": elf.EM_PPC64,
	} {
		file, err := elf.Open(filepath.Join(dir, "hmcnotifyd-linux-"+arch))
		if err != nil {
			t.Errorf("%v\n%s", err, build)
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
	out, status := program.Output(t, 5*time.Minute, qemu, filepath.Join(dir, "hmcnotifyd-linux-s390x"), "version")
	if status != 0 || !strings.Contains(out, "linux/s390x") {
		t.Errorf("version: exit status %d\n%s", status, out)
	}
}
