package playback

import (
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/assume"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/watch"
)

// TestBothAnswers has the simulator behave in each of the ways that an HMC may, and a capture find out
// which it was.
func TestBothAnswers(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]hmcsim.Options{
		assume.AsAssumed: {},
		assume.Otherwise: {
			SequencePerSession: true, RefreshOnce: true, OSSequenceAtIPL: true,
			HardwareMessageChanges: true, HardwareMessageInventory: true,
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			o.CPCs, o.Partitions = 1, 2
			sim, err := hmcsim.Start(o)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = sim.Close() }()
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			r := capture.NewRecorder(0)
			d := start(t, sim, hmcsim.DefaultUserid, hmcsim.DefaultPassword, watch.Tap{Exchange: r.Exchange, Traffic: r.Frame})
			cpc := sim.CPCs()[0].Name
			for _, p := range sim.Partitions() {
				if p.HasOS {
					continue
				}
				must(sim.StartPartition(p.Name))
				waitFor(t, "started partition", func() bool { return atRest(t, sim, p.Name) })
			}
			part := sim.Partitions()[0].Name
			subscribed := func() bool { return sim.Broker().Stats().Subscriptions >= 4+2 }
			waitFor(t, "subscriptions", subscribed)
			for range 5 { // topics take turns
				_, err := sim.OSMessages(part, "one more")
				must(err)
				must(sim.SetPartitionStatus(part, "degraded"))
				must(sim.SetPartitionStatus(part, "active"))
			}
			_, err = sim.AddHardwareMessage(cpc, "something is hot")
			must(err)
			waitFor(t, "what tells of it", func() bool { return hasWord(d, "hardware-messages") })
			sim.Broker().DropLinks()
			waitFor(t, "subscriptions again", func() bool { return sim.Broker().Stats().Subscribes >= 2*(4+2) && subscribed() })
			_, err = sim.OSMessages(part, "after the loss")
			must(err)
			must(sim.StopPartition(part))
			waitFor(t, "stopped partition", func() bool { return atRest(t, sim, part) })
			must(sim.StartPartition(part))
			waitFor(t, "started partition", func() bool { return atRest(t, sim, part) })
			d.stop()
			file := t.TempDir() + "/capture"
			write(t, r, file, capture.WriteOptions{})
			asked := []string{assume.Sequence, assume.RefreshAgain, assume.HardwareTold}
			if want == assume.Otherwise {
				asked = append(asked, assume.NumbersAtIPL)
			}
			got := answersOf(t, file)
			for _, id := range asked {
				if got[id].Verdict != want {
					t.Errorf("%s: %v, want %s", id, got[id], want)
				}
			}
		})
	}
}

func answersOf(t *testing.T, file string) map[string]assume.Answer {
	t.Helper()
	in, err := capture.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	answers, err := capture.Answers(in)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]assume.Answer)
	for _, a := range answers {
		all[a.ID] = a
	}
	return all
}
