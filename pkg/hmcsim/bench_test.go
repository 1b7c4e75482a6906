package hmcsim

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"testing"
	"time"
)

// benchLink connects to a broker over TLS, subscribes, and counts the frames it reads as cheaply as possible: by
// their NULs. It returns how many frames it has seen when n have come.
func benchLink(b *testing.B, broker *Broker, topic string) io.Reader {
	b.Helper()
	d := tls.Dialer{Config: broker.CA().ClientTLS()}
	conn, err := d.DialContext(b.Context(), "tcp", broker.Addr())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	before := broker.Subscribers(topic)
	if _, err := fmt.Fprint(conn, connect11+subscribeFrame("s", topic, "r")); err != nil {
		b.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); broker.Subscribers(topic) == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatal("not subscribed")
		}
	}
	buf := make([]byte, 4096) // CONNECTED and RECEIPT
	for nuls := 0; nuls < 2; {
		n, err := conn.Read(buf)
		if err != nil {
			b.Fatal(err)
		}
		nuls += bytes.Count(buf[:n], []byte{0})
	}
	return conn
}

func countFrames(r io.Reader, n int) error {
	buf := make([]byte, 256<<10)
	for n > 0 {
		m, err := r.Read(buf)
		n -= bytes.Count(buf[:m], []byte{0})
		if err != nil && n > 0 {
			return err
		}
	}
	return nil
}

// BenchmarkFlood: how fast one client that does nothing but read gets what a flood sends, over TLS.
func BenchmarkFlood(b *testing.B) {
	broker, err := StartBroker(BrokerOptions{Topics: []string{"u.1"}})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = broker.Close() }()
	link := benchLink(b, broker, "u.1")
	b.ResetTimer()
	done := make(chan error, 1)
	go func() {
		_, err := broker.Flood(context.Background(), FloodOptions{Topic: "u.1", Frames: int64(b.N)})
		done <- err
	}()
	if err := countFrames(link, b.N); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
}

// BenchmarkPublish: publishing one by one to some links that read over TLS.
func BenchmarkPublish(b *testing.B) {
	for _, links := range []int{1, 3} {
		b.Run(fmt.Sprintf("links=%d", links), func(b *testing.B) {
			broker, err := StartBroker(BrokerOptions{Topics: []string{"u.1"}})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = broker.Close() }()
			messages := FloodMessages()
			done := make(chan error, links)
			for range links {
				link := benchLink(b, broker, "u.1")
				go func() { done <- countFrames(link, b.N) }()
			}
			b.ResetTimer()
			for i := range b.N {
				m := messages[i%len(messages)]
				broker.Publish("u.1", m.Headers, m.Body)
			}
			for range links {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "notifications/s")
		})
	}
}

// BenchmarkLife: how fast an estate can live with one session that has a channel for every partition.
func BenchmarkLife(b *testing.B) {
	for _, partitions := range []int{8, 3000} {
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) {
			h, err := Start(Options{CPCs: 20, Partitions: partitions, StepDelay: time.Millisecond})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = h.Close() }()
			s, err := h.NewSession(DefaultUserid)
			if err != nil {
				b.Fatal(err)
			}
			link := benchLink(b, h.Broker(), s.Topics[TopicObject][0])
			go func() { _ = countFrames(link, 1<<62) }()
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				h.mu.Lock()
				h.world.live()
				h.mu.Unlock()
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "notifications/s")
		})
	}
}

// BenchmarkEstate starts an HMC with 20 CPCs and 3,000 partitions, and lists them.
func BenchmarkEstate(b *testing.B) {
	opts := Options{CPCs: 20, Partitions: 3000}
	b.Run("start", func(b *testing.B) {
		for b.Loop() {
			h, err := newHMC(opts)
			if err != nil {
				b.Fatal(err)
			}
			_ = h.Close()
		}
	})
	h, err := newHMC(opts)
	if err != nil {
		b.Fatal(err)
	}
	for _, kind := range []string{"partitions", "logical-partitions"} {
		b.Run("list-permitted-"+kind, func(b *testing.B) {
			r := &request{h: h}
			for b.Loop() {
				rep := listPermitted(kind == "partitions")(r)
				if _, err := json.Marshal(rep.body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	_ = h.Close()
}
