package budget

import (
	"bufio"
	"bytes"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
)

// LimitMemory makes the garbage collector, and what is bounded by it, follow the memory that the
// process may have: three quarters of what its cgroup or RLIMIT_DATA grants, as the program itself
// and mapped files have a part. GOMEMLIMIT goes before. It returns the limit in bytes; 0: there is
// none.
func LimitMemory() int64 {
	if os.Getenv("GOMEMLIMIT") == "" {
		if limit := min(cgroupLimit("/proc/self/cgroup", "/sys/fs/cgroup"), dataLimit()); limit < math.MaxInt64 {
			debug.SetMemoryLimit(limit / 4 * 3)
		}
	}
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		return limit
	}
	return 0
}

// cgroupLimit returns the memory limit of the cgroups that a file as /proc/self/cgroup names and of
// those around them, or the largest number. In a container the path may be that of the host, which
// is not there; what is there then is the container's own.
func cgroupLimit(list, root string) int64 {
	text, err := os.ReadFile(list)
	limit := int64(math.MaxInt64)
	if err != nil {
		return limit
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		_, rest, _ := strings.Cut(lines.Text(), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		dir, file := root, "memory.max" // version 2
		if controllers != "" {
			dir, file = filepath.Join(root, "memory"), "memory.limit_in_bytes"
		}
		if controllers != "" && controllers != "memory" {
			continue
		}
		for path = filepath.Clean("/" + path); ; path = filepath.Dir(path) {
			value, err := os.ReadFile(filepath.Join(dir, path, file)) //nolint:gosec // the kernel names it
			n, parseErr := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			if err == nil && parseErr == nil && n > 0 {
				limit = min(limit, n)
			}
			if path == "/" {
				break
			}
		}
	}
	if limit >= 1<<60 { // what version 1 says where there is none
		return math.MaxInt64
	}
	return limit
}

// dataLimit returns RLIMIT_DATA, or the largest number. (With a small RLIMIT_AS no Go program
// begins.)
func dataLimit() int64 {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_DATA, &limit) != nil || uint64(limit.Cur) > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(limit.Cur)
}
