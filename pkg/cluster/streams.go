package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// LeastPayload is the least max_payload of the servers: 1 MiB is usual.
const LeastPayload = 512 << 10

// wanted is what the daemon makes of the log's stream. Nothing in it goes but by what the daemon
// says: it knows what is needed.
func (c *Cluster) wanted() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: c.stream(), Description: "events of hmcnotifyd, written by one daemon at a time",
		Subjects: []string{c.subject(">")}, Storage: jetstream.FileStorage, Replicas: c.opts.Replicas,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew, MaxBytes: -1, MaxMsgs: -1,
		MaxMsgSize: -1, MaxMsgsPerSubject: -1, Duplicates: duplicates, AllowDirect: true,
	}
}

// prepare makes what is missing, and checks what is there.
func (c *Cluster) prepare(ctx context.Context) error {
	if n := c.nc.MaxPayload(); n < LeastPayload {
		return fmt.Errorf("max_payload of the NATS server is %d: it must be %d at least", n, LeastPayload)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*askTimeout)
	defer cancel()
	stream, err := c.js.Stream(ctx, c.stream())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if c.leaves("stream " + c.stream()) {
			return c.prepareBucket(ctx)
		}
		if stream, err = c.js.CreateStream(ctx, c.wanted()); err == nil {
			c.log.Info("made a stream on the NATS cluster", zap.String("stream", c.stream()))
		} else if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // by another daemon, meanwhile
			stream, err = c.js.Stream(ctx, c.stream())
		}
	}
	if err != nil {
		return c.cannot("stream", c.stream(), err)
	}
	if faults := c.faults(&stream.CachedInfo().Config, c.subject(">"), -1); len(faults) > 0 {
		return fmt.Errorf("stream %s of the NATS cluster cannot keep the log: %s",
			c.stream(), strings.Join(faults, "; "))
	}
	return c.prepareBucket(ctx)
}

// prepareBucket does the same for the bucket with cursors and lease.
func (c *Cluster) prepareBucket(ctx context.Context) error {
	name := Bucket(c.opts.Name)
	kv, err := c.js.KeyValue(ctx, name)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		if c.leaves("bucket " + name) {
			return nil
		}
		if err = c.makeBucket(ctx, name); err == nil {
			kv, err = c.js.KeyValue(ctx, name)
		}
	}
	if err != nil {
		return c.cannot("bucket", name, err)
	}
	stream, err := c.js.Stream(ctx, "KV_"+name)
	if err != nil {
		return c.cannot("bucket", name, err)
	}
	config := &stream.CachedInfo().Config
	faults := c.kept(config)
	if config.MaxMsgsPerSubject != 1 {
		faults = append(faults, fmt.Sprintf("its history is %d: set it to 1", config.MaxMsgsPerSubject))
	}
	if len(faults) > 0 {
		return fmt.Errorf("bucket %s of the NATS cluster cannot keep cursors and lease: %s",
			name, strings.Join(faults, "; "))
	}
	c.kv = kv
	return nil
}

// makeBucket makes the bucket as the library does, but for its first revision: revisions are
// epochs, and go on behind those of the log where somebody has removed the bucket.
func (c *Cluster) makeBucket(ctx context.Context, name string) error {
	newest, err := c.get(ctx, 0, c.subject("segment"))
	if err != nil {
		return err
	}
	first := uint64(1)
	if newest != nil && newest.err == nil {
		first = newest.epoch + 1
	}
	_, err = c.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "KV_" + name, Description: "who of the daemons writes, and how far each sink is",
		Subjects: []string{"$KV." + name + ".>"}, Storage: jetstream.FileStorage, Replicas: c.opts.Replicas,
		MaxMsgs: -1, MaxBytes: -1, MaxMsgSize: -1, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew,
		AllowRollup: true, DenyDelete: true, AllowDirect: true, Duplicates: duplicates, FirstSeq: first,
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return nil // by another daemon, meanwhile
	}
	if err == nil {
		c.log.Info("made a bucket on the NATS cluster", zap.String("bucket", name))
	}
	return err
}

// prepareLetters does the same for the stream with the dead letters.
func (c *Cluster) prepareLetters(ctx context.Context) error {
	name := DeadStream(c.opts.Name)
	stream, err := c.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if c.leaves("stream " + name) {
			return nil
		}
		stream, err = c.js.CreateStream(ctx, jetstream.StreamConfig{
			Name: name, Description: "dead letters of hmcnotifyd", Subjects: []string{c.deadSubject(">")},
			Storage: jetstream.FileStorage, Replicas: c.opts.Replicas, Retention: jetstream.LimitsPolicy,
			Discard: jetstream.DiscardNew, MaxBytes: -1, MaxMsgs: -1, MaxMsgSize: -1, MaxMsgsPerSubject: 1,
			Duplicates: duplicates, AllowDirect: true,
		})
		if err == nil {
			c.log.Info("made a stream on the NATS cluster", zap.String("stream", name))
		} else if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			stream, err = c.js.Stream(ctx, name)
		}
	}
	if err != nil {
		return c.cannot("stream", name, err)
	}
	faults := c.faults(&stream.CachedInfo().Config, c.deadSubject(">"), 1)
	if len(faults) > 0 {
		return fmt.Errorf("stream %s of the NATS cluster cannot keep dead letters: %s",
			name, strings.Join(faults, "; "))
	}
	return nil
}

// movedKey has where all that was here was moved to.
const movedKey = "moved"

// Moved says where what the cluster has was moved to; "": it was not.
func (c *Cluster) Moved(ctx context.Context) (to string, err error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultPatience)
	defer cancel()
	for {
		e, err := c.kv.Get(ctx, movedKey)
		switch {
		case err == nil:
			return string(e.Value()), nil
		case errors.Is(err, jetstream.ErrKeyNotFound):
			return "", nil
		case wait(ctx, retryWait) != nil:
			return "", fmt.Errorf("bucket %s: %s: %w", Bucket(c.opts.Name), movedKey, err)
		}
	}
}

// SetMoved notes where what the cluster has was moved to.
func (c *Cluster) SetMoved(ctx context.Context, to string) error {
	ctx, cancel := context.WithTimeout(ctx, DefaultPatience)
	defer cancel()
	for {
		_, err := c.kv.PutString(ctx, movedKey, to)
		if err == nil {
			return nil
		}
		if wait(ctx, retryWait) != nil {
			return fmt.Errorf("bucket %s: %s: %w", Bucket(c.opts.Name), movedKey, err)
		}
	}
}

// Unsettled says whether an error of Connect may go by itself: servers are started one after the
// other, and a stream or bucket that was made just now, by this daemon or by another one, has no
// leader yet, or is not known to the server that was asked.
func Unsettled(err error) bool {
	for _, passing := range []error{
		context.DeadlineExceeded, nats.ErrNoServers, nats.ErrTimeout, nats.ErrNoResponders,
		nats.ErrConnectionClosed, jetstream.ErrJetStreamNotEnabled,
		jetstream.ErrStreamNotFound, jetstream.ErrBucketNotFound,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// cannot says why there is no stream or bucket to be used.
func (c *Cluster) cannot(what, name string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, nats.ErrNoResponders):
		hint = ": JetStream is not enabled there, or has no leader at the moment"
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		hint = ": JetStream is not enabled for this account"
	case errors.Is(err, nats.ErrPermissionViolation):
		hint = ": this user may not ask for it, or make it"
	case errors.Is(err, context.DeadlineExceeded):
		hint = ": nobody answers; the cluster may have no leader, or this user may not ask"
	}
	return fmt.Errorf("%s %s of the NATS cluster%s: %w", what, name, hint, err)
}

// kept returns what is wrong with how a stream keeps what it has.
func (c *Cluster) kept(s *jetstream.StreamConfig) (faults []string) {
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Sprintf(format, args...))
		}
	}
	fault(s.Storage != jetstream.FileStorage, "it is in memory: it must be in files")
	fault(s.Replicas != c.opts.Replicas, "it has %d replicas and the configuration says %d: change one of them",
		s.Replicas, c.opts.Replicas)
	fault(s.Retention != jetstream.LimitsPolicy, "its retention is %s: it must be limits",
		strings.ToLower(s.Retention.String()))
	fault(s.MaxAge != 0, "max_age is %s, after which what is needed goes: set it to 0", s.MaxAge)
	fault(s.Sealed, "it is sealed: nothing can be written to it")
	fault(s.NoAck, "no_ack is set: nobody would know what is stored")
	fault(s.Mirror != nil || len(s.Sources) > 0, "it has a mirror or sources: only the daemon may write to it")
	return faults
}

// faults returns what is wrong with a stream that is to keep what a subject has: so many messages
// of each, or all.
func (c *Cluster) faults(s *jetstream.StreamConfig, subject string, each int64) []string {
	faults := c.kept(s)
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Sprintf(format, args...))
		}
	}
	drops := s.Discard != jetstream.DiscardNew
	fault(drops && s.MaxBytes > 0, "with max_bytes %d and discard old what is needed goes: set discard to new",
		s.MaxBytes)
	fault(s.MaxMsgs > 0, "max_msgs is %d: set it to -1", s.MaxMsgs)
	fault(max(s.MaxMsgsPerSubject, -1) != each && (each > 0 || s.MaxMsgsPerSubject > 0),
		"max_msgs_per_subject is %d: set it to %d", s.MaxMsgsPerSubject, each)
	fault(s.MaxMsgSize > 0 && int64(s.MaxMsgSize) < c.nc.MaxPayload(),
		"max_msg_size is %d, less than max_payload of the server: set it to -1", s.MaxMsgSize)
	fault(s.DenyPurge, "deny_purge is set: what is done with could not be removed; make the stream anew without it")
	fault(!s.AllowDirect, "allow_direct is not set: set it")
	fault(s.PersistMode == jetstream.AsyncPersistMode, "its persist_mode is async: what it acknowledges may be lost")
	fault(!slices.Equal(s.Subjects, []string{subject}), "its subjects are %s: set them to %s",
		strings.Join(s.Subjects, ", "), subject)
	return faults
}
