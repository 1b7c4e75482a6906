package histories_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// What drawn histories have shown once, each with what it took.
func TestHistoriesThatFailed(t *testing.T) {
	dir, now := scratch.Memory(t), time.Now()
	ca, err := hmcsim.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	a := authority{ca: ca, cert: filepath.Join(dir, "ca.pem")}
	if err := os.WriteFile(a.cert, ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	const ms = time.Millisecond
	for _, test := range []struct {
		name string
		plan plan
	}{
		{"the session ends silently, and a reload finds it gone", plan{seed: 9353, setup: setup{
			hmcs: 2, keeps: 20, refresh: true, budget: 60, hosts: 1, refreshOnce: true, perSession: true, cutOnEnd: true, numbersDiffer: true,
		}, steps: []step{
			{217915 * ms, expire, 0, 2, 6, 726 * ms},
			{218551 * ms, change, 0, 0, 4, 0},
			{230435 * ms, reload, 0, 0, 11, 22638 * ms},
		}}},
		{"a reload in a window of the storage", plan{seed: 8766, setup: setup{
			hmcs: 2, grouped: true, lag: 799 * ms, keeps: 1000000, budget: 600, hosts: 1, numbersDiffer: true,
		}, steps: []step{
			{120855 * ms, away, 0, 2, 9, 10846 * ms},
			{121982 * ms, cut, 1, 1, 1, 1843 * ms},
			{122906 * ms, console, 1, 1, 9, 0},
			{123034 * ms, refused, 0, 1, 3, 73 * ms},
			{123045 * ms, change, 0, 2, 9, 0},
			{123642 * ms, change, 0, 1, 3, 0},
			{125140 * ms, reload, 0, 2, 0, 51 * ms},
		}}},
		{"a reload right after a start", plan{seed: 8530, setup: setup{
			hmcs: 2, grouped: true, keeps: 1000000, refresh: true, budget: 10000, delay: 3 * ms, hosts: 1, perSession: true, cutOnEnd: true,
		}, steps: []step{
			{237040 * ms, stop, 1, 0, 9, 1 * ms},
			{237055 * ms, reload, 0, 0, 2, 897 * ms},
		}}},
		{"the link is lost before its coming up is stored", plan{seed: 8399, setup: setup{
			hmcs: 2, grouped: true, lag: 27 * ms, keeps: 1000000, budget: 10000, commit: 119 * ms, hosts: 1, refreshOnce: true, cutOnEnd: true, numbersDiffer: true,
		}, steps: []step{
			{130996 * ms, refused, 0, 2, 0, 1014 * ms},
			{130998 * ms, cut, 0, 2, 1, 4372 * ms},
			{131016 * ms, cut, 1, 1, 2, 7085 * ms},
			{144427 * ms, stop, 1, 1, 1, 9361 * ms},
		}}},
		{"a change that two HMCs tell late, over a restart", plan{seed: 8176, setup: setup{
			hmcs: 3, grouped: true, lag: 1456 * ms, keeps: 20, refresh: true, budget: 60, hosts: 1, refreshOnce: true, cutOnEnd: true,
		}, steps: []step{
			{18936 * ms, change, 1, 0, 7, 0},
			{18936 * ms, stop, 2, 0, 4, 49 * ms},
			{20293 * ms, reload, 2, 2, 4, 23 * ms},
		}}},
		{"the same change again while one HMC of two is silent", plan{seed: 7947, setup: setup{
			hmcs: 2, grouped: true, lag: 1007 * ms, keeps: 1000000, refresh: true, budget: 600, delay: 4 * ms, commit: 13 * ms, hosts: 1, cold: true, refreshOnce: true, cutOnEnd: true,
		}, steps: []step{
			{87403 * ms, away, 0, 0, 6, 15 * ms},
			{87410 * ms, change, 0, 1, 2, 0},
			{88816 * ms, expire, 1, 1, 7, 13658 * ms},
			{88820 * ms, change, 1, 1, 8, 0},
			{88922 * ms, change, 1, 1, 3, 0},
		}}},
		{"a message is replayed, and comes live after reloads", plan{seed: 7569, setup: setup{
			hmcs: 2, grouped: true, lag: 1689 * ms, keeps: 1000000, refresh: true, budget: 10000, hosts: 1, refreshOnce: true, cutOnEnd: true,
		}, steps: []step{
			{182402 * ms, console, 0, 2, 3, 0},
			{183293 * ms, reload, 1, 2, 6, 71 * ms},
			{183312 * ms, reload, 0, 0, 1, 630 * ms},
			{184509 * ms, reload, 1, 1, 6, 41483 * ms},
		}}},
		{"one HMC tells late what is over", plan{seed: 7245, setup: setup{
			hmcs: 2, grouped: true, lag: 260 * ms, keeps: 1000000, refresh: true, budget: 600, hosts: 1, perSession: true, cutOnEnd: true,
		}, steps: []step{
			{286714 * ms, status, 0, 1, 11, 0},
			{286743 * ms, reload, 1, 2, 3, 33 * ms},
			{286790 * ms, status, 1, 1, 1, 0},
		}}},
		{"a message is replayed, and comes live after a restart", plan{seed: 5945, setup: setup{
			hmcs: 2, grouped: true, lag: 350 * ms, keeps: 1000000, refresh: true, budget: 10000, hosts: 1, cutOnEnd: true, numbersDiffer: true,
		}, steps: []step{
			{186565 * ms, console, 0, 2, 9, 0},
			{186566 * ms, stop, 0, 2, 4, 3 * ms},
			{186633 * ms, stop, 0, 2, 7, 229 * ms},
			{206400 * ms, stop, 0, 0, 4, 14013 * ms},
		}}},
		{"a change that is told late, and OS messages that are missing", plan{seed: 8933, setup: setup{
			hmcs: 2, grouped: true, lag: 1374 * ms, keeps: 1000000, refresh: true, budget: 10000, hosts: 1, perSession: true, cutOnEnd: true,
		}, steps: []step{
			{36014 * ms, cutOff, 1, 1, 0, 0},
			{37428 * ms, console, 0, 2, 11, 0},
			{44843 * ms, cutOff, 0, 1, 7, 0},
			{62621 * ms, change, 0, 1, 9, 0},
			{62650 * ms, console, 1, 2, 2, 0},
			{62974 * ms, topicEnd, 1, 1, 11, 153 * ms},
		}}},
		{"more is written without communication than is held", plan{seed: 9753, setup: setup{
			hmcs: 2, grouped: true, lag: 313 * ms, keeps: 20, refresh: true, budget: 60, hosts: 1, cold: true, refreshOnce: true, cutOnEnd: true, numbersDiffer: true,
		}, steps: []step{
			{15941 * ms, cutOff, 0, 2, 3, 0},
			{17742 * ms, console, 1, 2, 11, 0},
			{17757 * ms, console, 0, 2, 5, 0},
			{124752 * ms, console, 0, 2, 9, 0},
			{247615 * ms, console, 1, 2, 1, 0},
			{248327 * ms, console, 1, 2, 2, 0},
			{251560 * ms, console, 0, 2, 9, 0},
			{352740 * ms, console, 0, 2, 8, 0},
			{510494 * ms, console, 1, 2, 6, 0},
			{513985 * ms, console, 1, 2, 4, 0},
		}}},
		{"two hosts take turns after the numbers began anew", plan{seed: 1882, setup: setup{
			hmcs: 1, keeps: 1000000, budget: 60, delay: 4 * ms, hosts: 2, perSession: true, cutOnEnd: true, numbersDiffer: true,
		}, steps: []step{
			{18976 * ms, anew, 0, 0, 9, 0},
			{162259 * ms, console, 0, 0, 6, 0},
			{320603 * ms, away, 0, 2, 8, 1853 * ms},
			{401480 * ms, kill, 0, 1, 10, 20242 * ms},
			{405402 * ms, change, 0, 1, 11, 0},
			{411692 * ms, console, 0, 0, 4, 0},
			{448515 * ms, restart, 0, 1, 8, 2182 * ms},
		}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if problems := run(t, &test.plan, dir, a, now); len(problems) > 0 {
				t.Errorf("%v%s", &test.plan, strings.Join(problems, "\n"))
			}
		})
	}
}
