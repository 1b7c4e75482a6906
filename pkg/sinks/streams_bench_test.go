package sinks

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// numbered returns n records with ids nobody has had before, of as many resources.
func numbered(next *int, n, resources int) []event.Record {
	rs := make([]event.Record, n)
	for i := range rs {
		*next++
		rs[i] = keyed(*next, fmt.Sprintf("R%d", *next%resources))
	}
	return rs
}

// compare calls both do in turns, each with n new records, and reports the rates of both. ratio is the rate of the sink
// divided by that of the plain loop.
func compare(b *testing.B, n, resources int, plain, sink func([]event.Record) error) {
	const turn = 20
	var next int
	var spent [2]time.Duration
	for b.Loop() {
		for i, send := range []func([]event.Record) error{plain, sink} {
			batches := make([][]event.Record, turn)
			for j := range batches {
				batches[j] = numbered(&next, n, resources)
			}
			start := time.Now()
			for _, rs := range batches {
				if err := send(rs); err != nil {
					b.Fatal(err)
				}
			}
			spent[i] += time.Since(start)
		}
	}
	events := float64(b.N) * turn * float64(n)
	b.ReportMetric(float64(spent[0])/float64(spent[1]), "ratio")
	b.ReportMetric(events/spent[0].Seconds(), "plain/s")
	b.ReportMetric(events/spent[1].Seconds(), "events/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkNATS compares the sink with a plain loop: publish all without waiting, then wait for all.
func BenchmarkNATS(b *testing.B) {
	for _, size := range []int{1, 256} {
		for _, resources := range []int{1, 1000} {
			b.Run(fmt.Sprintf("batch=%d/resources=%d", size, resources), func(b *testing.B) {
				s := startNATS(b, func(o *server.Options) { o.StoreDir = b.TempDir() })
				nc, js := s.client()
				s.addStream(js, func(c *jetstream.StreamConfig) { c.MaxMsgs = 10_000; c.Duplicates = time.Second })
				defer nc.Close()
				sink := natsTo(b, s)
				compare(b, size, resources, func(rs []event.Record) error {
					futures := make([]jetstream.PubAckFuture, len(rs))
					for i, r := range rs {
						m := &nats.Msg{Subject: "hmc.hmc-east.status-change", Data: r.JSON, Header: nats.Header{
							"Nats-Msg-Id": {r.ID}, "Hmcnotifyd-Type": {r.Type}, "Hmcnotifyd-Hmc": {"hmc-east"}, "Hmcnotifyd-Severity": {"info"},
						}}
						var err error
						if futures[i], err = js.PublishMsgAsync(m); err != nil {
							return err
						}
					}
					for _, f := range futures {
						select {
						case <-f.Ok():
						case err := <-f.Err():
							return err
						}
					}
					return nil
				}, func(rs []event.Record) error { return sink.Send(b.Context(), rs) })
			})
		}
	}
}

// BenchmarkKafka compares the sink with the client's own way to wait for records.
func BenchmarkKafka(b *testing.B) {
	for _, size := range []int{1, 256} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			c := startKafka(b, kfake.SeedTopics(6, config.DefaultTopic), kfake.BlackholeProduce())
			client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.DefaultProduceTopic(config.DefaultTopic),
				kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.NoCompression()))
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			sink := kafkaTo(b, c.ListenAddrs())
			compare(b, size, 1000, func(rs []event.Record) error {
				records := make([]*kgo.Record, len(rs))
				for i, r := range rs {
					records[i] = &kgo.Record{
						Key: []byte(r.Key), Value: r.JSON, Timestamp: r.Received,
						Headers: []kgo.RecordHeader{
							{Key: "id", Value: []byte(r.ID)}, {Key: "type", Value: []byte(r.Type)},
							{Key: "hmc", Value: []byte("hmc-east")}, {Key: "severity", Value: []byte("info")},
						},
					}
				}
				return client.ProduceSync(b.Context(), records...).FirstErr()
			}, func(rs []event.Record) error { return sink.Send(b.Context(), rs) })
		})
	}
}
