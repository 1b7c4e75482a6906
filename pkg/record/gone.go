package record

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// KeepGone is how long what is known of an HMC is kept when it is not in the configuration any
// more.
const KeepGone = 30 * 24 * time.Hour

var (
	// ErrNotGone says that an HMC is in the configuration.
	ErrNotGone = errors.New("the HMC is configured: what is known of it is needed")
	// ErrUnknownHMC says that nothing is known of an HMC.
	ErrUnknownHMC = errors.New("nothing is known of an HMC of that name")
)

// gonePrefix begins the keys of since when somebody is gone: the name of an owner, in RFC 3339.
const gonePrefix = "gone/"

// owner is whose state a key of the queue is: an HMC's or a group's.
type owner struct {
	group bool
	name  string
}

func (o owner) key() string {
	if o.group {
		return gonePrefix + "group/" + o.name
	}
	return gonePrefix + "hmc/" + o.name
}

// ownerOf returns whose state a key is. Keys begin with a kind and a name.
func ownerOf(key string) (o owner, ok bool) {
	kind, rest, _ := strings.Cut(key, "/")
	o.name, _, _ = strings.Cut(rest, "\x00")
	switch kind {
	case "seen", "os", "start", "last", "hw", "log", "gap":
		return o, true
	case "told", "unit":
		o.group = true
		return o, true
	}
	return o, false
}

// Gone forgets HMCs and groups that are not configured any more: each in 30 days, for it may come
// back, or when it is asked to. It is used by one goroutine at a time, and not while an HMC begins
// or ends.
type Gone struct {
	queue *queue.Queue
	log   *zap.Logger
	// group is called with the name of each group that is forgotten.
	group func(name string)
}

// NewGone returns a Gone for what is stored in q. It calls group with the name of each group that
// it forgets: one that comes back has to begin anew.
func NewGone(q *queue.Queue, log *zap.Logger, group func(name string)) *Gone {
	return &Gone{queue: q, log: log, group: group}
}

// owned returns the keys of all that are not configured. groups has the group of each HMC that is.
func (g *Gone) owned(groups map[string]string) map[owner][]string {
	here := make(map[owner]bool)
	for hmc, group := range groups {
		here[owner{name: hmc}], here[owner{group: true, name: group}] = true, true
	}
	owned := make(map[owner][]string)
	g.queue.StateRange("", func(key string, _ []byte) bool {
		if o, ok := ownerOf(key); ok && !here[o] {
			owned[o] = append(owned[o], key)
		}
		return true
	})
	return owned
}

// Look notes who is gone, and since when, and forgets those that have been for KeepGone.
func (g *Gone) Look(ctx context.Context, groups map[string]string, now time.Time) error {
	owned, change := g.owned(groups), make(map[string][]byte)
	for o, keys := range owned {
		since, _ := g.queue.State(o.key())
		at, err := time.Parse(time.RFC3339, string(since))
		switch {
		case err != nil:
			change[o.key()] = []byte(now.UTC().Format(time.RFC3339))
		case now.Sub(at) >= KeepGone:
			g.forget(o, keys, change)
		}
	}
	g.queue.StateRange(gonePrefix, func(key string, _ []byte) bool {
		_, group := strings.CutPrefix(key, gonePrefix+"group/")
		_, name, _ := strings.Cut(strings.TrimPrefix(key, gonePrefix), "/")
		if owned[owner{group, name}] == nil { // it is back
			change[key] = nil
		}
		return true
	})
	return g.queue.PutState(ctx, change)
}

// Forget forgets an HMC that is not configured, and the group of its name. It returns how many
// values were known.
func (g *Gone) Forget(ctx context.Context, hmc string, groups map[string]string) (values int, err error) {
	if _, ok := groups[hmc]; ok {
		return 0, ErrNotGone
	}
	owned, change := g.owned(groups), make(map[string][]byte)
	for _, o := range []owner{{name: hmc}, {group: true, name: hmc}} {
		if keys := owned[o]; keys != nil {
			g.forget(o, keys, change)
			values += len(keys)
		}
	}
	if values == 0 {
		return 0, ErrUnknownHMC
	}
	return values, g.queue.PutState(ctx, change)
}

func (g *Gone) forget(o owner, keys []string, change map[string][]byte) {
	for _, key := range append(keys, o.key()) {
		change[key] = nil
	}
	what := "hmc"
	if o.group {
		what = "group"
		g.group(o.name)
	}
	g.log.Info("what was known of an HMC, or of a group of them, that is not configured any more is forgotten",
		zap.String(what, o.name), zap.Int("values", len(keys)))
}
