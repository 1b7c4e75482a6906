package queue

import "time"

// spaceEvery is how often the space that is left is looked at. A scrape must not do it: a file system that hangs would hold it up.
const spaceEvery = 5 * time.Second

// spaceLoop looks at what the disk has left.
func (q *Queue) spaceLoop() {
	tick := time.NewTicker(spaceEvery)
	defer tick.Stop()
	for {
		q.metrics.available.Set(float64(availableBytes(q.opts.Dir)))
		select {
		case <-tick.C:
		case <-q.closing:
			return
		}
	}
}
