package main

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const natsStream = "HMC"

// natsCase compares with publishing all of a batch before the first answer is awaited.
func natsCase() sinkCase {
	return sinkCase{
		name: "nats", loop: "jetstream.PublishMsgAsync of all, then await", events: 200_000, goal: sinkGoal,
		destination: startNATS,
		sink: func(address string) config.Sink {
			return config.Sink{NATS: &config.NATS{Servers: []string{address}, Subject: config.DefaultSubject}}
		},
		baseline: func(_ context.Context, address string) (sender, error) { return newNATSLoop(address) },
		arrived: func(ctx context.Context, address string) (int, error) {
			l, err := newNATSLoop(address)
			if err != nil {
				return 0, err
			}
			defer l.nc.Close()
			s, err := l.js.Stream(ctx, natsStream)
			if err != nil {
				return 0, err
			}
			return int(s.CachedInfo().State.Msgs), nil
		},
	}
}

// startServer starts a server that stands alone, with JetStream.
func startServer(o *server.Options) (s *server.Server, stop func(), err error) {
	o.NoLog, o.NoSigs, o.JetStream = true, true, true
	if s, err = server.NewServer(o); err != nil {
		return nil, nil, err
	}
	stop = func() {
		s.Shutdown()
		s.WaitForShutdown()
	}
	s.Start()
	if !s.ReadyForConnections(time.Minute) {
		stop()
		return nil, nil, errors.New("the server does not start")
	}
	return s, stop, nil
}

// startNATS starts a server with a stream in a file store.
func startNATS(ctx context.Context, dir string) (address string, stop func(), err error) {
	s, stop, err := startServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, StoreDir: dir})
	if err != nil {
		return "", nil, err
	}
	l, err := newNATSLoop(s.ClientURL())
	if err != nil {
		stop()
		return "", nil, err
	}
	defer l.nc.Close()
	_, err = l.js.CreateStream(ctx, jetstream.StreamConfig{Name: natsStream, Subjects: []string{"hmc.>"}, Storage: jetstream.FileStorage})
	if err != nil {
		stop()
		return "", nil, err
	}
	return s.ClientURL(), stop, nil
}

type natsLoop struct {
	nc *nats.Conn
	js jetstream.JetStream
}

func newNATSLoop(address string) (*natsLoop, error) {
	nc, err := nats.Connect(address)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &natsLoop{nc, js}, nil
}

func (l *natsLoop) Send(ctx context.Context, records []event.Record) error {
	futures := make([]jetstream.PubAckFuture, len(records))
	for i, r := range records {
		var err error
		futures[i], err = l.js.PublishMsgAsync(&nats.Msg{
			Subject: "hmc.hmc1." + r.Type, Data: r.JSON,
			Header: nats.Header{
				"Nats-Msg-Id": {r.ID}, "Hmcnotifyd-Type": {r.Type}, "Hmcnotifyd-Hmc": {"hmc1"}, "Hmcnotifyd-Severity": {"info"},
			},
		})
		if err != nil {
			return err
		}
	}
	return acknowledged(ctx, futures)
}

// acknowledged waits until all is stored.
func acknowledged(ctx context.Context, futures []jetstream.PubAckFuture) error {
	for _, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (l *natsLoop) Close() error {
	l.nc.Close()
	return nil
}
