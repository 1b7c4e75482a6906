package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	handoverKey = "handover"
	// notes is how many of the last ones are kept: of two daemons that hand over in turn each has
	// one that the other may be waiting for.
	notes = 4
	// followEvery is how often is looked for the next note, or for who leads next.
	followEvery = 50 * time.Millisecond
)

// note is what one who has led tells whoever leads next.
type note struct {
	// ID is that of its Holder.
	ID   string          `json:"id"`
	Text json.RawMessage `json:"text"`
}

// readNotes returns all notes, and the revision of their entry; 0: there is none.
func (c *Cluster) readNotes(ctx context.Context) (all []note, revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	e, err := c.kv.Get(ctx, handoverKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, 0, nil
	}
	if err == nil {
		revision, err = e.Revision(), json.Unmarshal(e.Value(), &all)
	}
	if err != nil {
		err = fmt.Errorf("bucket %s: %s: %w", Bucket(c.opts.Name), handoverKey, err)
	}
	return all, revision, err
}

// leave leaves a note, in the place of the one that its writer has left before.
func (c *Cluster) leave(ctx context.Context, n note) error {
	for {
		err := c.leaveOnce(ctx, n)
		if err == nil {
			return nil
		}
		if wait(ctx, followEvery) != nil {
			return fmt.Errorf("bucket %s: %s: %w", Bucket(c.opts.Name), handoverKey, err)
		}
	}
}

func (c *Cluster) leaveOnce(ctx context.Context, n note) error {
	all, revision, err := c.readNotes(ctx)
	if err != nil && revision == 0 {
		return err
	}
	all = append(slices.DeleteFunc(all, func(o note) bool { return o.ID == n.ID }), n)
	value, err := json.Marshal(all[max(0, len(all)-notes):])
	if err == nil && len(value) > int(c.nc.MaxPayload())/2 {
		value, err = json.Marshal([]note{n}) // those of others are of less use
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err = c.kv.Update(ctx, handoverKey, value, revision)
	return err
}

// HandOver lets another daemon lead, and leaves a text for it, which is JSON; a later call replaces
// that. Nothing but the text is written after the first call, but what nobody else has forbidden by
// leading. ctx bounds it.
func (t *Term) HandOver(ctx context.Context, text []byte) error {
	t.cancel()
	t.kept.Wait()
	err := t.c.leave(ctx, note{t.self.ID, text})
	return errors.Join(err, t.release(ctx, err == nil))
}

// Taken waits until another daemon has the lease.
func (t *Term) Taken(ctx context.Context) error {
	for {
		if holder, _, err := t.look(ctx); err == nil && holder.ID != t.self.ID {
			return nil
		}
		if err := wait(ctx, followEvery); err != nil {
			return err
		}
	}
}

// Follow calls fn with the text that whoever led before has left, at first and when it may be
// another one, until fn returns true or ctx is done. Where it has left none, fn is not called.
func (t *Term) Follow(ctx context.Context, fn func(text []byte) bool) error {
	if !t.before.HandsOver {
		return nil
	}
	for {
		all, _, err := t.c.readNotes(ctx)
		i := slices.IndexFunc(all, func(n note) bool { return n.ID == t.before.ID })
		if err == nil && i >= 0 && fn(all[i].Text) { // else a replica may be behind
			return nil
		}
		if err := wait(ctx, followEvery); err != nil {
			return err
		}
	}
}
