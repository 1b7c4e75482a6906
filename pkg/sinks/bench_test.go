package sinks

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// BenchmarkWebhook compares the sink with a plain loop around http.Client, both with the same server and taking turns,
// so that whatever else the machine does falls on both. ratio is the rate of the sink divided by that of the loop.
func BenchmarkWebhook(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	for _, size := range []int{500, 20_000} {
		for _, concurrency := range []int{1, 4} {
			for _, signed := range []bool{false, true} {
				b.Run(fmt.Sprintf("bytes=%d/concurrency=%d/signed=%v", size, concurrency, signed), func(b *testing.B) {
					s := webhookTo(b, server.URL, func(c *config.Sink) {
						c.Concurrency = concurrency
						if signed {
							c.Webhook.Secret = config.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
						}
					})
					rs := []event.Record{largeRecord(0, size)}
					client := &http.Client{
						Timeout:   10 * time.Second,
						Transport: &http.Transport{MaxIdleConnsPerHost: concurrency},
					}
					defer client.CloseIdleConnections()

					const turn = 200
					var plain, sink time.Duration
					b.ReportAllocs()
					for b.Loop() {
						plain += timed(concurrency, turn, func() error { return post(client, server.URL, rs[0].JSON) }, b)
						sink += timed(concurrency, turn, func() error { return s.Send(b.Context(), rs) }, b)
					}
					n := float64(b.N) * turn
					b.ReportMetric(float64(plain)/float64(sink), "ratio")
					b.ReportMetric(n/plain.Seconds(), "plain/s")
					b.ReportMetric(n/sink.Seconds(), "events/s")
					b.ReportMetric(0, "ns/op")
				})
			}
		}
	}
}

// post is what a careful programmer without this package would write.
func post(client *http.Client, url string, body []byte) error {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return err
}

// timed calls do n times from each of several goroutines and returns how long that took, divided by their number.
func timed(goroutines, n int, do func() error, b *testing.B) time.Duration {
	start := time.Now()
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range n {
				if err := do(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start) / time.Duration(goroutines)
}

func BenchmarkLog(b *testing.B) {
	for _, batch := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			s := logTo(b, filepath.Join(b.TempDir(), "events.log"), Options{})
			rs := records(0, batch)
			total := 0
			for _, r := range rs {
				total += len(r.JSON) + 1
			}
			b.SetBytes(int64(total))
			b.ReportAllocs()
			written := 0
			for b.Loop() {
				if written += total; written > 64<<20 { // not the size of the disk
					written = 0
					if err := s.file.Truncate(0); err != nil {
						b.Fatal(err)
					}
				}
				if err := s.Send(b.Context(), rs); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkWebhookRequest is the sink's own share: everything but the transport.
func BenchmarkWebhookRequest(b *testing.B) {
	for _, signed := range []bool{false, true} {
		b.Run(fmt.Sprintf("signed=%v", signed), func(b *testing.B) {
			s := webhookTo(b, "http://127.0.0.1:1/hook", func(c *config.Sink) {
				if signed {
					c.Webhook.Secret = config.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
				}
			})
			r := record(0)
			f := s.newForm(b.Context(), true)
			b.ReportAllocs()
			for b.Loop() {
				_ = f.fill(r.ID, time.Now(), r.JSON)
				f.blank()
			}
		})
	}
}

// BenchmarkSyslog is the sink with a server that reads and forgets, compared with a plain loop that writes the same messages,
// made beforehand, with one write each; both take turns. ratio is the rate of the sink divided by that of the loop.
func BenchmarkSyslog(b *testing.B) {
	l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(io.Discard, conn)
			})
		}
	})
	for _, format := range []string{config.FormatJSON, config.FormatText} {
		for _, batch := range []int{1, 100, 1000} {
			b.Run(fmt.Sprintf("format=%s/batch=%d", format, batch), func(b *testing.B) {
				s := syslogTo(b, syslogConfig("tcp://"+l.Addr().String(), config.FramingOctetCounting, withFormat(format)))
				rs := records(0, batch)
				if err := s.Send(b.Context(), rs); err != nil { // not the making of the connection
					b.Fatal(err)
				}
				conn, err := new(net.Dialer).DialContext(b.Context(), "tcp", l.Addr().String())
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
				var made [][]byte
				for i := range rs {
					made = append(made, s.format.stream(rs[i:i+1]))
				}
				var plain, sink time.Duration
				b.ReportAllocs()
				for b.Loop() {
					start := time.Now()
					for _, m := range made {
						if _, err := conn.Write(m); err != nil {
							b.Fatal(err)
						}
					}
					between := time.Now()
					if err := s.Send(b.Context(), rs); err != nil {
						b.Fatal(err)
					}
					plain += between.Sub(start)
					sink += time.Since(between)
				}
				n := float64(b.N * batch)
				b.ReportMetric(float64(plain)/float64(sink), "ratio")
				b.ReportMetric(n/plain.Seconds(), "plain/s")
				b.ReportMetric(n/sink.Seconds(), "events/s")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
