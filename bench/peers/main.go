// Command peers is what bench compares the queue with and the program itself does not use: the persistent queue of the
// OpenTelemetry Collector's exporterhelper on its file storage, synced. It is a module of its own.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	metric "go.opentelemetry.io/otel/metric/noop"
	trace "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

// run stores records and has them read, and prints what that took.
func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	dir := flags.String("dir", "", "directory for what is stored")
	file := flags.String("records", "", "file with the records, one a line; they are used again and again")
	limit := flags.Duration("time", time.Second, "how long records are stored; what is stored then is read to its end")
	group := flags.Int("group", 1, "records in one call")
	producers := flags.Int("producers", 1, "goroutines that make calls")
	if err := flags.Parse(args); err != nil {
		return err
	}
	data, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	records := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	q, err := open(ctx, *dir)
	if err != nil {
		return err
	}
	began, cpu := time.Now(), cpuTime()
	var working sync.WaitGroup
	var stored atomic.Int64
	errs := make([]error, *producers)
	for p := range *producers {
		working.Go(func() {
			for i := p * *group; time.Since(began) < *limit && errs[p] == nil; i += *producers * *group {
				logs := plog.NewLogs()
				all := logs.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
				for n := range *group {
					all.AppendEmpty().Body().SetStr(string(records[(i+n)%len(records)]))
				}
				errs[p] = q.logs.ConsumeLogs(ctx, logs)
				stored.Add(int64(*group))
			}
		})
	}
	working.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for q.received.Load() < stored.Load() {
		time.Sleep(time.Millisecond)
	}
	seconds, used := time.Since(began), cpuTime()-cpu
	if err := q.close(ctx); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"seconds": seconds.Seconds(), "cpu_seconds": used.Seconds(), "received": q.received.Load(),
	})
}

// queue is the persistent queue of an exporter, which counts what it is handed.
type queue struct {
	storage  extension.Extension
	logs     exporter.Logs
	received atomic.Int64
}

// host shows the exporter its storage.
type host map[component.ID]component.Component

func (h host) GetExtensions() map[component.ID]component.Component { return h }

func open(ctx context.Context, dir string) (*queue, error) {
	telemetry := component.TelemetrySettings{
		Logger: zap.NewNop(), TracerProvider: trace.NewTracerProvider(), MeterProvider: metric.NewMeterProvider(), Resource: pcommon.NewResource(),
	}
	factory := filestorage.NewFactory()
	config := factory.CreateDefaultConfig().(*filestorage.Config)
	config.Directory, config.FSync = dir, true
	storageID := component.NewID(factory.Type())
	var q queue
	var err error
	q.storage, err = factory.Create(ctx, extension.Settings{ID: storageID, TelemetrySettings: telemetry}, config)
	if err != nil {
		return nil, err
	}
	settings := exporterhelper.NewDefaultQueueConfig()
	settings.StorageID, settings.QueueSize, settings.BlockOnOverflow = &storageID, 1<<20, true
	set := exporter.Settings{ID: component.NewID(component.MustNewType("bench")), TelemetrySettings: telemetry}
	push := func(_ context.Context, logs plog.Logs) error {
		q.received.Add(int64(logs.LogRecordCount()))
		return nil
	}
	q.logs, err = exporterhelper.NewLogs(ctx, set, struct{}{}, push, exporterhelper.WithQueue(configoptional.Some(settings)))
	if err != nil {
		return nil, err
	}
	if err := q.storage.Start(ctx, host{}); err != nil {
		return nil, err
	}
	return &q, q.logs.Start(ctx, host{storageID: q.storage})
}

func (q *queue) close(ctx context.Context) error {
	return errors.Join(q.logs.Shutdown(ctx), q.storage.Shutdown(ctx))
}

// cpuTime returns what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
