package bridge

import (
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// The watchdog is fed as long as the loops of HMCs and sinks turn.
func TestAlive(t *testing.T) {
	d := startDaemon(t, hmcYAML(t, "a", startSim(t, hmcsim.Options{Partitions: -1})))
	d.connected("a")
	if err := d.bridge.Alive(); err != nil {
		t.Error(err)
	}
	delivery := d.bridge.deliveryTo("file")
	d.eventually("a silent loop is noticed", func() bool { // which turns each second
		delivery.Beat.Store(time.Now().Add(-aliveWithin).UnixNano())
		err := d.bridge.Alive()
		return err != nil && strings.Contains(err.Error(), "the loop of sink file has not moved")
	})
	d.eventually("it turns again", func() bool { return d.bridge.Alive() == nil })
}
