package bridge

import (
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
)

// Who hears that a replay has ended can begin another one at once.
func TestReplayEndsBeforeItIsHeard(t *testing.T) {
	t.Parallel()
	d, _ := withLetters(t, 1)
	query := replay.Query{Since: time.Now().Add(-time.Hour), DryRun: true}
	sink, heard := d.bridge.opts.Config.Sinks[0].Name, 0
	if err := d.bridge.ReplayStored(t.Context(), sink, query, func(s replay.Step) error {
		if s.Outcome == replay.Done {
			heard++
			if err := d.bridge.ReplayStored(t.Context(), sink, query, func(replay.Step) error { return nil }); err != nil {
				t.Error(err)
			}
		}
		return nil
	}); err != nil || heard != 1 {
		t.Errorf("%v, heard %d times", err, heard)
	}
}
