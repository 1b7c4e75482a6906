package watch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logon"
)

// lister lists the CPCs and partitions that the userid may see: for their names, for which of them
// there is an OS message channel to open, and to compare them with what is known.
type lister struct {
	k *keeper
	// wanted says that they are to be listed. The keeper's mu guards it.
	wanted bool

	// Of the keeper's goroutine alone. last is when they were listed, list what is to be
	// compared at compareAt, once the notifications that were on their way have come.
	last, compareAt time.Time
	list            *estate.Listing
	// compared is when the HMC was asked for the list that was compared last; unsettled says
	// that it left something open.
	compared  time.Time
	unsettled bool
	// again is when a list that failed is tried again; without tries none did.
	again retry
}

// ask has the estate listed. It returns at once.
func (l *lister) ask() {
	l.k.mu.Lock()
	l.wanted = true
	l.k.mu.Unlock()
	signal(l.k.wake)
}

// takeDue reports whether it is time to list, and takes the wish for it.
func (l *lister) takeDue(now time.Time) bool {
	l.k.mu.Lock()
	defer l.k.mu.Unlock()
	due := l.wanted && now.Sub(l.last) >= l.k.intervals.Relist || l.again.tries > 0 && l.again.isDue(now)
	l.wanted = l.wanted && !due
	return due
}

// eachDue calls until with each time at which there is something to do. The keeper's mu is held.
func (l *lister) eachDue(until func(time.Time)) {
	if l.again.tries > 0 {
		until(l.again.due)
	}
	if l.wanted {
		until(l.last.Add(l.k.intervals.Relist))
	}
	if l.list != nil {
		until(l.compareAt)
	}
}

// work compares and lists, if that is due: a new list must not take the place of one that waits.
func (l *lister) work(ctx context.Context) {
	if l.list != nil && !time.Now().Before(l.compareAt) {
		l.compare(ctx)
	}
	if l.takeDue(time.Now()) {
		l.listAll(ctx)
	}
}

// PartitionList is a call that lists the partitions of a class.
type PartitionList struct {
	Class string
	Call  func(context.Context) ([]hmc.Partition, error)
}

// PartitionLists are the calls that together list every partition the userid may see: an HMC
// manages CPCs in DPM mode, classic ones, or both.
func PartitionLists(s *hmc.Session) []PartitionList {
	return []PartitionList{
		{estate.ClassPartition, s.ListPermittedPartitions},
		{estate.ClassLogicalPartition, s.ListPermittedLogicalPartitions},
	}
}

// emptyTries is how often an HMC may say that it has none of a class of which it has listed some
// before, until that is believed: one that has just started does not know yet what it manages.
const emptyTries = 6

// forgets reports whether the HMC lists none of a class of which it has listed some before.
func (l *lister) forgets(class string, n int) bool {
	return n == 0 && l.again.tries < emptyTries && l.k.Rec.Group().Estate.ListsAny(l.k.Cfg.Name, class)
}

// listAll asks for all of them. A call that fails holds up none of the others; what it would have
// said stays as it is known.
func (l *lister) listAll(ctx context.Context) {
	k := l.k
	list := &estate.Listing{HMC: k.Cfg.Name, Asked: time.Now(), Complete: make(map[string]bool)}
	var failures, tooMany []error
	answered := func(class string, n int, err error) (ok bool) {
		if err == nil && l.forgets(class, n) {
			err = fmt.Errorf("the HMC lists no %s, of which it has listed some before", class)
		}
		_, some := errors.AsType[*hmc.TooManyError](err)
		switch {
		case err == nil:
			list.Complete[class] = true
		case some:
			tooMany = append(tooMany, err)
		default:
			failures = append(failures, err)
		}
		return !k.over(ctx, err)
	}
	cpcs, err := k.session.ListCPCs(ctx)
	if !answered(estate.ClassCPC, len(cpcs), err) {
		return
	}
	if len(failures) == 0 {
		k.hardware.listed(cpcs)
	}
	for _, c := range cpcs {
		list.Resources = append(list.Resources, estate.Resource{
			URI: c.ObjectURI, Class: estate.ClassCPC, Name: c.Name, CPC: c.Name, Status: c.Status,
			Judged: judged(c.HasUnacceptableStatus),
		})
	}
	followed := make(map[string][]hmc.Partition)
	for _, of := range PartitionLists(k.session) {
		partitions, err := of.Call(ctx)
		if !answered(of.Class, len(partitions), err) {
			return
		}
		for _, p := range partitions {
			list.Resources = append(list.Resources, estate.Resource{
				URI: p.ObjectURI, Class: of.Class, Name: p.Name, CPC: p.CPCName, CPCURI: p.CPCURI, Status: p.Status,
				Judged: judged(p.HasUnacceptableStatus),
			})
		}
		followed[of.Class] = partitions
	}
	l.last = time.Now()
	k.Rec.Group().Estate.Learn(list)
	k.probe.Listed(list)
	l.list, l.compareAt = list, l.last.Add(k.intervals.Recording.Settle)
	unselected := k.channels.sync(followed)
	k.channels.dropGone(ctx, list)
	// Its channel stays open: nothing closes one but the end of the session
	for _, topic := range unselected {
		if err := k.link.Unsubscribe(ctx, topic); err != nil && ctx.Err() == nil {
			k.log.Debug("a topic that is not wanted any more could not be unsubscribed",
				zap.String("topic", topic), zap.Error(err))
		}
	}
	l.publish(errors.Join(failures...), errors.Join(tooMany...), list)
}

// judged returns what an HMC thinks of a status that it has listed.
func judged(unacceptable *bool) estate.Judgement {
	if unacceptable == nil {
		return estate.Unjudged
	}
	return estate.JudgementOf(*unacceptable)
}

// publish says whether a part of the estate could not be listed, or is more than is taken.
func (l *lister) publish(failed, tooMany error, list *estate.Listing) {
	k := l.k
	if failed == nil {
		l.again = retry{}
	} else {
		l.again.failed(&k.intervals)
	}
	err := errors.Join(failed, tooMany)
	if err == nil {
		k.source.setListing("", "")
		return
	}
	problem, text := "", logon.ExplainLists(&k.Cfg, err)
	k.Rec.Problem("states, which could not be compared: " + text)
	whole := list.Complete[estate.ClassPartition] && list.Complete[estate.ClassLogicalPartition]
	if len(k.Cfg.OSMessages) > 0 && !whole {
		problem = "the partitions could not be listed: " + text
	}
	if k.source.setListing(problem, "not all CPCs and partitions could be listed: "+text) || l.again.tries == 1 {
		k.log.Warn("not all CPCs and partitions could be listed; "+
			"new names and OS messages of the others have to wait until they can", zap.String("error", text))
	}
}

// compare has the list compared with what is known.
func (l *lister) compare(ctx context.Context) {
	list, settle := l.list, l.k.intervals.Recording.Settle
	again, early := l.k.Rec.Reconcile(ctx, list, l.last.Add(settle))
	if early { // storing takes long
		l.compareAt = time.Now().Add(settle / 10)
		return
	}
	l.list = nil
	l.k.channels.dropGone(ctx, list)
	if again {
		l.ask()
	}
	// A gap waits for what the next list says, but not for an estate that never rests.
	if !again || l.unsettled {
		l.compared = list.Asked
	}
	l.unsettled = again
}

// done reports whether a list that was asked for after since was compared, or could not be had.
func (l *lister) done(since time.Time) bool {
	return l.again.tries > 0 && l.last.After(since) || !l.compared.Before(since)
}
