package queue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

const benchRecord = 700

// benchBatches returns n batches' worth of one batch: the queue copies records, so they can be
// shared.
func benchBatch(size int) Batch {
	b := Batch{}
	for i := range size {
		record := make([]byte, benchRecord)
		for j := range record {
			record[j] = byte(i + j*7)
		}
		b.Records = append(b.Records, record)
	}
	return b
}

// BenchmarkQueue measures records per second until every cursor has read and acknowledged
// everything, and all is synced to disk.
func BenchmarkQueue(b *testing.B) {
	for _, cursors := range []int{0, 1, 3} {
		for _, size := range []int{1, 10, 100, 1000} {
			b.Run(fmt.Sprintf("cursors=%d/batch=%d", cursors, size), func(b *testing.B) {
				q := open(b, Options{})
				batch := benchBatch(size)
				n := (b.N + size - 1) / size
				var group sync.WaitGroup
				for i := range cursors {
					c := cursor(b, q, fmt.Sprint(i))
					group.Go(func() {
						for got := 0; got < n*size; {
							records, err := c.Next(context.Background(), 1000, 0)
							if err != nil {
								b.Error(err)
								return
							}
							got += len(records)
							if err := c.Ack(records[len(records)-1].Seq); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				var failed atomic.Int64
				batch.Done = func(err error) {
					if err != nil {
						failed.Add(1)
					}
				}
				b.ReportAllocs()
				b.ResetTimer()
				for range n {
					if err := q.Append(context.Background(), batch); err != nil {
						b.Fatal(err)
					}
				}
				if err := q.Flush(); err != nil {
					b.Fatal(err)
				}
				group.Wait()
				b.StopTimer()
				if failed.Load() > 0 {
					b.Fatalf("%d batches failed", failed.Load())
				}
				b.ReportMetric(float64(n*size)/b.Elapsed().Seconds(), "records/s")
				b.SetBytes(benchRecord)
			})
		}
	}
}

// BenchmarkEach measures a caller that waits for every record to be on disk before it appends the
// next.
func BenchmarkEach(b *testing.B) {
	q := open(b, Options{})
	batch := benchBatch(1)
	b.ReportAllocs()
	for b.Loop() {
		if err := store(q, batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkNaive is what the queue is compared with: a bbolt bucket with one key per record, one
// transaction per batch, and a transaction per 1000 records read and acknowledged.
func BenchmarkNaive(b *testing.B) {
	for _, cursors := range []int{0, 1, 3} {
		for _, size := range []int{1, 10, 100, 1000} {
			b.Run(fmt.Sprintf("cursors=%d/batch=%d", cursors, size), func(b *testing.B) {
				db, err := bolt.Open(filepath.Join(b.TempDir(), "naive.db"), 0o600, nil)
				if err != nil {
					b.Fatal(err)
				}
				defer func() {
					if err := db.Close(); err != nil {
						b.Error(err)
					}
				}()
				records, positions := []byte("records"), []byte("cursors")
				if err := db.Update(func(tx *bolt.Tx) error {
					_, err := tx.CreateBucket(records)
					_, err2 := tx.CreateBucket(positions)
					return errors.Join(err, err2)
				}); err != nil {
					b.Fatal(err)
				}
				batch := benchBatch(size)
				n := (b.N + size - 1) / size
				total := uint64(n * size)
				var group sync.WaitGroup
				wake := make([]chan struct{}, cursors)
				for i := range cursors {
					wake[i] = make(chan struct{}, 1)
					group.Go(func() {
						var seq uint64
						for seq < total {
							var got [][]byte
							if err := db.View(func(tx *bolt.Tx) error {
								c := tx.Bucket(records).Cursor()
								for k, v := c.Seek(binary.BigEndian.AppendUint64(nil, seq+1)); k != nil && len(got) < 1000; k, v = c.Next() {
									got = append(got, append([]byte(nil), v...))
								}
								return nil
							}); err != nil {
								b.Error(err)
								return
							}
							if len(got) == 0 {
								<-wake[i]
								continue
							}
							seq += uint64(len(got))
							if err := db.Update(func(tx *bolt.Tx) error {
								return tx.Bucket(positions).Put([]byte{byte(i)}, binary.BigEndian.AppendUint64(nil, seq))
							}); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				b.ReportAllocs()
				b.ResetTimer()
				var seq uint64
				for range n {
					if err := db.Update(func(tx *bolt.Tx) error {
						bucket := tx.Bucket(records)
						bucket.FillPercent = 1
						for _, r := range batch.Records {
							seq++
							if err := bucket.Put(binary.BigEndian.AppendUint64(nil, seq), r); err != nil {
								return err
							}
						}
						return nil
					}); err != nil {
						b.Fatal(err)
					}
					for i := range wake {
						notify(wake[i])
					}
				}
				group.Wait()
				b.StopTimer()
				b.ReportMetric(float64(n*size)/b.Elapsed().Seconds(), "records/s")
				b.SetBytes(benchRecord)
			})
		}
	}
}

// memory returns a line of /proc/self/status, in KiB.
func memory(line string) (kib int, err error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), line+":")
	_, err = fmt.Sscan(rest, &kib)
	return kib, err
}

// childOpen opens a queue and prints how long that took and what memory was needed, for that and
// for reading everything.
func childOpen(dir, _ string) error {
	before, err := memory("VmRSS")
	if err != nil {
		return err
	}
	start := time.Now()
	q, err := Open(Options{Dir: dir})
	if err != nil {
		return err
	}
	c, err := q.Cursor("c")
	if err != nil {
		return err
	}
	events, _, _ := c.Pending()
	if _, err := c.Next(context.Background(), 1, 0); err != nil {
		return err
	}
	took := time.Since(start)
	opened, err := memory("VmHWM")
	if err != nil {
		return err
	}
	start = time.Now()
	for n := int64(1); n < events; {
		records, err := c.Next(context.Background(), 0, 0)
		if err != nil {
			return err
		}
		n += int64(len(records))
	}
	drained, err := memory("VmHWM")
	fmt.Println(events, took.Seconds()*1000, before, opened, drained, float64(events)/time.Since(start).Seconds())
	return errors.Join(err, q.Close())
}

// BenchmarkOpen starts a process on a million waiting records and a state of 100,000 keys.
func BenchmarkOpen(b *testing.B) {
	const n, size, keys = 1_000_000, 1000, 100_000
	dir := b.TempDir()
	q, err := Open(Options{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	cursor(b, q, "c")
	batch := benchBatch(size)
	for i := range n / size {
		batch.State = nil
		for j := range keys / (n / size) {
			batch.State = append(batch.State, KeyValue{Key: fmt.Sprintf("id/%032d", i*size+j), Value: []byte("12345678")})
		}
		if err := q.Append(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	if err := q.Close(); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	figures := map[string][]float64{}
	for range b.N {
		cmd, out := startChild(b, "open", dir, "")
		var events int
		var took, before, opened, drained, rate float64
		if _, err := fmt.Fscan(out, &events, &took, &before, &opened, &drained, &rate); err != nil {
			b.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			b.Fatal(err)
		}
		if events != n {
			b.Fatalf("%d events", events)
		}
		for name, figure := range map[string]float64{
			"ms-to-first-record": took, "MiB-before": before / 1024, "MiB-open": opened / 1024, "MiB-drained": drained / 1024,
			"records/s-drained": rate,
		} {
			figures[name] = append(figures[name], figure)
		}
	}
	for name, of := range figures { // medians of all turns
		slices.Sort(of)
		b.ReportMetric(of[len(of)/2], name)
	}
}
