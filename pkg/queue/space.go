package queue

import "time"

// spaceEvery is how often the space that is left is looked at. A scrape must not do it: a file system that hangs would hold it up.
const spaceEvery = 5 * time.Second

// spaceLoop looks at what the disk has left.
func (d *disk) spaceLoop() {
	tick := time.NewTicker(spaceEvery)
	defer tick.Stop()
	for {
		d.metrics.available.Set(float64(availableBytes(d.dir)))
		select {
		case <-tick.C:
		case <-d.closing:
			return
		}
	}
}
