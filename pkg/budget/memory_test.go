package budget

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

// The limit is that of the process's cgroup or of one around it, of either version.
func TestCgroupLimit(t *testing.T) {
	for name, test := range map[string]struct {
		list  string
		files map[string]string
		want  int64
	}{
		"version 2":                {"0::/a/b\n", map[string]string{"a/b/memory.max": "268435456\n", "a/memory.max": "max\n"}, 256 << 20},
		"the one around is lower":  {"0::/a/b\n", map[string]string{"a/b/memory.max": "268435456\n", "a/memory.max": "1048576\n"}, 1 << 20},
		"in a container":           {"0::/kubepods/pod1/c1\n", map[string]string{"memory.max": "536870912\n"}, 512 << 20},
		"a path above the mount":   {"0::/../..\n", map[string]string{"memory.max": "536870912\n"}, 512 << 20},
		"version 1":                {"9:name=systemd:/\n4:memory:/x\n0::/\n", map[string]string{"memory/x/memory.limit_in_bytes": "268435456\n"}, 256 << 20},
		"version 1 without limit":  {"4:memory:/x\n", map[string]string{"memory/x/memory.limit_in_bytes": "9223372036854771712\n"}, math.MaxInt64},
		"no limit":                 {"0::/a\n", map[string]string{"a/memory.max": "max\n"}, math.MaxInt64},
		"nothing that is readable": {"0::/a\nnonsense\n", nil, math.MaxInt64},
	} {
		root := t.TempDir()
		for file, text := range test.files {
			path := filepath.Join(root, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		list := filepath.Join(root, "list")
		if err := os.WriteFile(list, []byte(test.list), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := cgroupLimit(list, root); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
	if got := cgroupLimit("/does/not/exist", t.TempDir()); got != math.MaxInt64 {
		t.Errorf("without a list: %d", got)
	}
}
