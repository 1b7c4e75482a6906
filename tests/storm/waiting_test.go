//go:build real

package storm_test

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// TestHourOfADeadSink lets wait what comes in an hour at 50 notifications a second, of 400 resources, for a sink that refuses
// connections, as fast as 40 times that. What waits costs disk, not much more than it is itself, and no memory.
func TestHourOfADeadSink(t *testing.T) {
	const (
		rate     = 2000
		limit    = 64.0 // MiB
		burst    = 96.0 // MiB, while 40 times as much comes
		overhead = 1.3
	)
	events := soak.Count(t, "HOUR", 30_000, 180_000)
	s := startSide(t, "hour", "- {name: dead, webhook: {url: \"http://127.0.0.1:9/\"}, drop: [{type: bridge-.*}]}\n", "")
	pad := strings.Repeat("0123456789", 65)
	publish := func(int) {
		s.published++
		name := fmt.Sprintf("R%d", s.published%backlogResources)
		s.sim.Publish("object", []hmcsim.Header{
			{Name: "notification-type", Value: "property-change"},
			{Name: "class", Value: "partition"},
			{Name: "name", Value: name},
			{Name: "object-uri", Value: "/api/partitions/" + name},
			{Name: "property-names", Value: " description "},
		}, fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":%q,"new-value":"%d %d"}]}`,
			pad, s.published, time.Now().UnixNano()))
	}
	waiting := func() (n, bytes float64) {
		return s.daemon.Metric(t, "hmcnotifyd_sink_queue_events", "sink", "dead"), s.daemon.Metric(t, "hmcnotifyd_sink_queue_bytes", "sink", "dead")
	}
	onDisk := func() (bytes float64) {
		err := filepath.WalkDir(s.daemon.Storage, func(_ string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			info, err := e.Info()
			if err == nil {
				bytes += float64(info.Size())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return bytes
	}

	// At 50 a second each has a commit of its own.
	publish(0)
	s.await(t)
	_, bytesBefore := waiting()
	diskBefore := onDisk()
	for i := range 300 {
		publish(i)
		s.await(t)
	}
	_, bytes := waiting()
	bytes -= bytesBefore
	disk := onDisk() - diskBefore
	t.Logf("one by one: %.0f bytes on disk of %.0f that wait: %.2f", disk, bytes, disk/bytes)
	if disk > overhead*bytes {
		t.Errorf("one by one: %.0f bytes on disk of %.0f that wait: more than %.1f", disk, bytes, overhead)
	}

	const parts = 10
	var memory []float64
	var most float64
	for range parts {
		pace(rate, events/parts, nil, publish)
		s.await(t)
		now, peak := resident(t, s.daemon.Process.PID())
		n, bytes := waiting()
		t.Logf("%.0f MiB resident, %.0f at most; %.0f events wait with %.0f bytes, %.2f of that on disk", now, peak, n, bytes, onDisk()/bytes)
		memory, most = append(memory, now), max(most, peak)
	}
	if waits := slices.Max(memory); waits > limit {
		t.Errorf("%.0f MiB resident, more than %.0f", waits, limit)
	}
	if most > burst {
		t.Errorf("%.0f MiB resident at most, more than %.0f", most, burst)
	}
	if grown := memory[parts-1] - memory[parts/2]; grown > limit/10 {
		t.Errorf("in its second half %.0f MiB more were needed", grown)
	}
	n, bytes := waiting()
	if int(n) != s.published {
		t.Errorf("%v events wait, %d were published", n, s.published)
	}
	if disk := onDisk(); disk > overhead*bytes {
		t.Errorf("%.0f bytes on disk of %.0f that wait: more than %.1f", disk, bytes, overhead)
	}
	s.daemon.Stop(t)
}
