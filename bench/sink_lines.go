package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// logCase compares with one write of the lines of each batch.
func logCase() sinkCase {
	return sinkCase{
		name: "log", loop: "one os.File.Write for each batch", events: 400_000, concurrency: 1, goal: sinkGoal,
		sink: func(dir string) config.Sink {
			return config.Sink{Log: &config.Log{Output: filepath.Join(dir, "events.log"), Format: config.FormatJSON, MaxFiles: 1}}
		},
		baseline: func(_ context.Context, dir string) (sender, error) {
			f, err := os.Create(filepath.Join(dir, "events.log"))
			return &lineLoop{f, func(to []byte, r *event.Record) []byte { return append(append(to, r.JSON...), '\n') }}, err
		},
		arrived: func(_ context.Context, dir string) (int, error) {
			data, err := os.ReadFile(filepath.Join(dir, "events.log"))
			return bytes.Count(data, []byte{'\n'}), err
		},
	}
}

// syslogCase compares with one write of the messages of each batch, made by hand.
func syslogCase() sinkCase {
	return sinkCase{
		name: "syslog", loop: "one net.Conn.Write for each batch", events: 400_000, concurrency: 1, goal: sinkGoal,
		destination: startLines,
		sink: func(address string) config.Sink {
			return config.Sink{Syslog: &config.Syslog{
				Address: "tcp://" + address, Framing: config.FramingLF, Facility: "local0", AppName: "hmcnotifyd", Hostname: "host", Format: config.FormatJSON, MaxSize: 8000,
			}}
		},
		baseline: func(ctx context.Context, address string) (sender, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			return &lineLoop{conn, func(to []byte, r *event.Record) []byte {
				to = fmt.Appendf(to, `<134>1 %s host hmcnotifyd - %s [hmc@0 id="%s" type="%s" key="%s"] `,
					r.Received.UTC().Format(time.RFC3339Nano), r.Type, r.ID, r.Type, r.Key)
				return append(append(to, r.JSON...), '\n')
			}}, err
		},
	}
}

// lineLoop writes the records of each Send at once.
type lineLoop struct {
	io.WriteCloser
	line func(to []byte, r *event.Record) []byte
}

func (l *lineLoop) Send(_ context.Context, records []event.Record) error {
	var data []byte
	for i := range records {
		data = l.line(data, &records[i])
	}
	_, err := l.Write(data)
	return err
}

// startLines starts a server that reads and discards.
func startLines(ctx context.Context, _ string) (address string, stop func(), err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
			}()
		}
	}()
	return listener.Addr().String(), func() { _ = listener.Close() }, nil
}
