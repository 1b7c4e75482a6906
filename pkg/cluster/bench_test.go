package cluster

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
)

// BenchmarkQueue is the queue on disk, on three servers as they are by default, and on three that
// sync what they acknowledge: records of 1 KiB, appended in batches by several and acknowledged by
// one cursor.
func BenchmarkQueue(b *testing.B) {
	on := func(start func(testing.TB, int) *natscluster.Cluster) func(*testing.B) queue.Options {
		return func(b *testing.B) queue.Options {
			b.Helper()
			c, err := Connect(b.Context(), Options{URLs: start(b, 3).URLs(), Name: "x", Replicas: 3})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(c.Close)
			return queue.Options{Store: NewStore(c, StoreOptions{Epoch: 1})}
		}
	}
	for _, kind := range []struct {
		name    string
		options func(b *testing.B) queue.Options
	}{
		{"disk", func(b *testing.B) queue.Options { b.Helper(); return queue.Options{Dir: b.TempDir()} }},
		{"default", on(natscluster.StartLazy)},
		{"always", on(natscluster.Start)},
	} {
		for _, size := range []int{1, 100} {
			b.Run(fmt.Sprintf("%s/batch=%d", kind.name, size), func(b *testing.B) {
				q, err := queue.Open(kind.options(b))
				if err != nil {
					b.Fatal(err)
				}
				defer q.Close()
				c, err := q.Cursor("c")
				if err != nil {
					b.Fatal(err)
				}
				var work sync.WaitGroup
				batch := queue.Batch{Records: make([][]byte, size)}
				for i := range batch.Records {
					batch.Records[i] = make([]byte, 1024)
				}
				b.ResetTimer()
				work.Go(func() {
					for read := 0; read < b.N*size; {
						records, err := c.Next(context.Background(), 0, 0)
						if err != nil {
							b.Error(err)
							return
						}
						read += len(records)
						if err := c.Ack(records[len(records)-1].Seq); err != nil {
							b.Error(err)
						}
					}
				})
				for range b.N {
					if err := q.Append(context.Background(), batch); err != nil {
						b.Fatal(err)
					}
				}
				work.Wait()
				b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "records/s")
			})
		}
	}
}
