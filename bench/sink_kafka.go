package main

import (
	"context"
	"strings"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// kafkaPartitions is how many partitions the topic has.
const kafkaPartitions = 6

// kafkaCase compares with the client's own way to produce records and wait for them.
func kafkaCase() sinkCase {
	return sinkCase{
		name: "kafka", loop: "kgo's ProduceSync", events: 200_000, goal: sinkGoal,
		destination: startKafka,
		sink: func(address string) config.Sink {
			return config.Sink{Kafka: &config.Kafka{Brokers: strings.Split(address, ","), Topic: config.DefaultTopic}}
		},
		baseline: func(_ context.Context, address string) (sender, error) { return newKafkaLoop(address) },
		arrived:  kafkaArrived,
	}
}

// startKafka starts three brokers, which keep what they get in memory.
func startKafka(context.Context, string) (address string, stop func(), err error) {
	c, err := kfake.NewCluster(kfake.SeedTopics(kafkaPartitions, config.DefaultTopic))
	if err != nil {
		return "", nil, err
	}
	return strings.Join(c.ListenAddrs(), ","), c.Close, nil
}

// kafkaArrived asks for the ends of the partitions: an idempotent producer has not sent anything twice.
func kafkaArrived(ctx context.Context, address string) (n int, err error) {
	l, err := newKafkaLoop(address)
	if err != nil {
		return 0, err
	}
	defer l.client.Close()
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic = config.DefaultTopic
	for i := range kafkaPartitions {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = int32(i), -1 // the end
		topic.Partitions = append(topic.Partitions, p)
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.Topics = append(req.Topics, topic)
	for _, shard := range l.client.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return 0, shard.Err
		}
		for _, t := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range t.Partitions {
				n += int(p.Offset)
			}
		}
	}
	return n, nil
}

type kafkaLoop struct{ client *kgo.Client }

func newKafkaLoop(address string) (*kafkaLoop, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(address, ",")...), kgo.DefaultProduceTopic(config.DefaultTopic),
		kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.NoCompression()))
	return &kafkaLoop{client}, err
}

func (l *kafkaLoop) Send(ctx context.Context, records []event.Record) error {
	all := make([]*kgo.Record, len(records))
	for i, r := range records {
		all[i] = &kgo.Record{
			Key: []byte(r.Key), Value: r.JSON, Timestamp: r.Received,
			Headers: []kgo.RecordHeader{
				{Key: "id", Value: []byte(r.ID)},
				{Key: "type", Value: []byte(r.Type)},
				{Key: "hmc", Value: []byte("hmc1")},
				{Key: "severity", Value: []byte("info")},
			},
		}
	}
	return l.client.ProduceSync(ctx, all...).FirstErr()
}

func (l *kafkaLoop) Close() error {
	l.client.Close()
	return nil
}
