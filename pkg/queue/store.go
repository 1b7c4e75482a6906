package queue

// Store is what a Queue keeps its data in. A program can put one of its own around it, which embeds it:
//
//	type failing struct{ queue.Store }
//
//	func (f failing) Commit(g *queue.Group) error {
//		if rand.IntN(3) == 0 {
//			return syscall.ENOSPC
//		}
//		return f.Store.Commit(g)
//	}
type Store interface {
	// Commit stores a group, all of it or nothing, and returns when it is durable. One goroutine calls it, one call at a time.
	// After an error the group is not stored, unless the store cannot know. While commits fail it is called every
	// second with an empty group, which stores nothing: an error says that the store still refuses.
	Commit(g *Group) error
}

// disk is the store in a directory.
type disk struct{ q *Queue }

func (d disk) Commit(g *Group) error {
	if len(g.records)+len(g.state) > 0 {
		return d.q.store(g)
	}
	if err := d.q.ready(); err != nil {
		return err
	}
	return probeDisk(d.q.opts.Dir, max(64<<10, min(g.bytes, commitBytes)))
}
