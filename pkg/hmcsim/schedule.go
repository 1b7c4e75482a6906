package hmcsim

import (
	"container/heap"
	"time"
)

// task is something to be done at a time, with world.mu held.
type task struct {
	at  time.Time
	seq int64 // keeps the order of tasks of the same time
	do  func()
}

type taskHeap []task

func (t taskHeap) Len() int { return len(t) }
func (t taskHeap) Less(i, j int) bool {
	if !t[i].at.Equal(t[j].at) {
		return t[i].at.Before(t[j].at)
	}
	return t[i].seq < t[j].seq
}
func (t taskHeap) Swap(i, j int) { t[i], t[j] = t[j], t[i] }
func (t *taskHeap) Push(x any)   { *t = append(*t, x.(task)) }
func (t *taskHeap) Pop() any {
	old := *t
	last := old[len(old)-1]
	old[len(old)-1] = task{}
	*t = old[:len(old)-1]
	return last
}

// after lets the world do something after d. world.mu is held, now and then.
func (w *world) after(d time.Duration, do func()) {
	w.taskSeq++
	heap.Push(&w.tasks, task{time.Now().Add(d), w.taskSeq, do})
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

// tick is how often a living estate looks whether it is time for something to happen.
func (w *world) tick() time.Duration {
	if w.opts.rate <= 0 {
		return 0
	}
	return min(max(time.Duration(float64(time.Second)/w.opts.rate), 10*time.Millisecond), time.Second)
}

// start starts the world's goroutine, which does what is due and lets the estate live. It may be
// called again.
func (w *world) start() { w.startOnce.Do(w.run) }

func (w *world) run() {
	w.wg.Go(func() {
		timer := time.NewTimer(time.Hour)
		defer timer.Stop()
		begin := time.Now()
		w.mu.Lock()
		w.liveFrom = w.happened
		w.mu.Unlock()
		for {
			wait := time.Hour
			w.mu.Lock()
			for len(w.tasks) > 0 {
				if wait = time.Until(w.tasks[0].at); wait > 0 {
					break
				}
				heap.Pop(&w.tasks).(task).do()
				wait = time.Hour
			}
			if tick := w.tick(); tick > 0 {
				target := w.liveFrom + int64(time.Since(begin).Seconds()*w.opts.rate)
				if target-w.happened > int64(w.opts.rate)+1 {
					// Far behind, for the machine was busy: what could not
					// happen in time does not happen at all.
					w.liveFrom -= target - w.happened - int64(w.opts.rate) - 1
				}
				for n := 0; w.happened < target && n < 1000; n++ {
					w.live()
				}
				wait = min(wait, tick)
			}
			w.mu.Unlock()
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-w.poke:
			case <-w.quit:
				return
			}
		}
	})
}

// stop ends the world's goroutine.
func (w *world) stop() {
	w.stopOnce.Do(func() { close(w.quit) })
	w.wg.Wait()
}
