//go:build real

package storm_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// TestLocked starts a second daemon on the same directory: it says so in one line and ends, and the first goes on.
// One that was killed locks nobody out.
func TestLocked(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", Partitions: -1})
	seen := make(chan string, 10)
	consumer := newHook(t, func(raw []byte, _ int64) { seen <- string(raw) })
	consumer.start(t)
	d := daemon.Start(t, daemon.Options{
		Config: "hmcs:\n" + hmctest.Entry(t, sim, "") + fmt.Sprintf("sinks:\n- {name: hook, webhook: {url: %q}, drop: [{type: bridge-.*}]}\n", consumer.url),
	})
	connected(t, d)
	for range 2 {
		output, status := daemon.Run(t, within, "--config.file="+d.Dir+"/hmcnotifyd.yaml", "--storage.path="+d.Storage,
			fmt.Sprintf("--web.listen-address=127.0.0.1:%d", program.FreePort(t)))
		if status != 1 || strings.Count(output, "\n") != 1 || !strings.Contains(output, d.Storage) || !strings.Contains(output, "in use") ||
			!strings.Contains(output, fmt.Sprint(d.Process.PID())) {
			t.Errorf("exit status %d: %s", status, output)
		}
		change(sim, "R1", "x")
		<-seen
		d.Kill()
		d.Start(t)
		connected(t, d)
	}
	d.Stop(t)
}
