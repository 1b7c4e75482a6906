package bridge

import (
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// The watchdog is fed as long as the loops of HMCs and sinks turn.
func TestAlive(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, hmcYAML(t, "a", hmctest.Start(t, hmcsim.Options{Partitions: -1})))
	d.connected("a")
	if err := d.bridge.Alive(); err != nil {
		t.Error(err)
	}
	if err := d.bridge.aliveAt(time.Now().Add(aliveWithin)); err == nil || !strings.Contains(err.Error(), "the loop of sink hook has not moved") {
		t.Errorf("a silent loop: %v", err)
	}
}
