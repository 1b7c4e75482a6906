// Command collector is the receiver of an OpenTelemetry Collector with an end behind it that prints what arrives, a request in a
// line, as OTLP's JSON. It is a module of its own, so that nothing it needs gets into the program's list of modules.
//
//	collector -listen 127.0.0.1:4318 [-busy N] [-refuse EVENTNAME]
//
// The first N requests are refused for now, and for good each request with a record of that event name.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "collector:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:4318", "where to listen")
	busy := flag.Int("busy", 0, "so many requests are refused for now")
	refuse := flag.String("refuse", "", "the name of events that are refused for good")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	end := &end{busy: *busy, refuse: *refuse}
	logs, err := consumer.NewLogs(end.consume)
	if err != nil {
		return err
	}
	factory := otlpreceiver.NewFactory()
	cfg := factory.CreateDefaultConfig()
	file := confmap.NewFromStringMap(map[string]any{
		"protocols": map[string]any{"http": map[string]any{"endpoint": *listen}},
	})
	if err := file.Unmarshal(cfg); err != nil {
		return err
	}
	receiver, err := factory.CreateLogs(ctx, receivertest.NewNopSettings(factory.Type()), cfg, logs)
	if err != nil {
		return err
	}
	if err := receiver.Start(ctx, componenttest.NewNopHost()); err != nil {
		return err
	}
	fmt.Println("listening")
	<-ctx.Done()
	return receiver.Shutdown(context.Background())
}

// end is where the pipeline ends.
type end struct {
	mu     sync.Mutex
	busy   int
	refuse string
}

func (e *end) consume(_ context.Context, logs plog.Logs) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.busy > 0 {
		e.busy--
		return errors.New("not now")
	}
	if e.refuse != "" && e.holds(logs) {
		return consumererror.NewPermanent(fmt.Errorf("events of the name %s are not wanted", e.refuse))
	}
	text, err := new(plog.JSONMarshaler).MarshalLogs(logs)
	if err != nil {
		return err
	}
	_, err = fmt.Println(string(text))
	return err
}

func (e *end) holds(logs plog.Logs) bool {
	for _, resource := range logs.ResourceLogs().All() {
		for _, scope := range resource.ScopeLogs().All() {
			for _, record := range scope.LogRecords().All() {
				if record.EventName() == e.refuse {
					return true
				}
			}
		}
	}
	return false
}
