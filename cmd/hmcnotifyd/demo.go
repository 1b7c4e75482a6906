package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/terminal"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/units"
)

func demoCommand(app *kingpin.Application, e *environment) {
	c := e.command(app, "demo", "Run a simulated HMC, the daemon and a webhook consumer together on loopback, "+
		"and print what the consumer receives.", e.demo, func() error {
		if e.demoDuration < 0 {
			return errors.New("--duration must not be negative")
		}
		return nil
	})
	c.Flag("duration", "End after this time; 0: until Ctrl-C.").Default("0s").DurationVar(&e.demoDuration)
}

// demo runs everything in one process. It fails if no event arrived.
func (e *environment) demo(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if e.demoDuration > 0 {
		defer time.AfterFunc(e.demoDuration, cancel).Stop()
	}
	dir, err := os.MkdirTemp("", "hmcnotifyd-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	sim, err := hmcsim.Start(hmcsim.Options{Rate: 5})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sim.Close()) }()
	consumer, err := startConsumer(e.stdout, cancel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, consumer.close()) }()

	cfg, err := demoConfig(dir, sim, consumer.addr)
	if err != nil {
		return err
	}
	quiet := *e
	quiet.logLevel, quiet.logFormat = "warn", "console"
	log, err := quiet.newLogger()
	if err != nil {
		return err
	}
	quiet.daemon.storagePath, quiet.daemon.configFile = filepath.Join(dir, "data"), cfg.File
	quiet.daemon.listen = []string{demoAddress(ctx)}
	hangups, stop := onHangup()
	defer stop()
	d, err := newDaemon(ctx, &quiet, cfg, log)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, demoScreen, d.addresses()[0], d.addresses()[0], d.addresses()[0])
	if err := errors.Join(d.run(ctx, hangups), consumer.close()); err != nil {
		return err
	}
	n, types, alone := consumer.received()
	fmt.Fprintf(e.stdout, "\nThe webhook consumer received %d %s of %d %s from the HMC. "+
		"Sessions left on the HMC: %d.\n",
		n, units.Plural(n, "event"), types, units.Plural(types, "type"), sim.Sessions())
	if n == 0 && !alone {
		return errors.New("demo: no event arrived")
	}
	return nil
}

// demoScreen says what is to be seen.
const demoScreen = `A simulated HMC, the daemon and a webhook consumer run in this process.

  Status page  http://%s/
  Metrics      http://%s/metrics
  Live         hmcnotifyd top --url=http://%s   in another terminal

The HMC publishes 5 notifications per second: changes of partitions, finished jobs, messages of
operating systems. Each line is an event as the webhook consumer received it. Messages that the HMC
had before the daemon came are marked as replayed. Ctrl-C ends the demo.

TIME          TYPE              SEVERITY  WHAT
`

// demoAddress prefers the port that the daemon has in real life.
func demoAddress(ctx context.Context) string {
	const usual = "127.0.0.1:10291"
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", usual)
	if err != nil || l.Close() != nil {
		return "127.0.0.1:0"
	}
	return usual
}

// demoConfig writes the configuration as a user would and reads it back.
func demoConfig(dir string, sim *hmcsim.HMC, consumer string) (*config.Config, error) {
	ca, file := filepath.Join(dir, "hmc-ca.pem"), filepath.Join(dir, "hmcnotifyd.yaml")
	if err := os.WriteFile(ca, sim.CACertPEM(), 0o600); err != nil {
		return nil, err
	}
	text := "hmcs:\n" + hmcConfig(sim, "demo", "ca_file: "+strconv.Quote(ca)) + `    hardware_messages: true
    rest_requests_per_minute: 600
sinks:
  - name: consumer
    webhook: {url: ` + strconv.Quote("http://"+consumer+"/hmc") + "}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return config.Load(file)
}

// consumer is a small webhook consumer: it prints what it receives.
type consumer struct {
	addr string
	// called when out does not take any more
	gone   func()
	server *http.Server
	done   chan struct{}

	// guards what follows
	mu    sync.Mutex
	out   io.Writer
	types map[string]int
	// out does not take any more
	alone bool
}

func startConsumer(out io.Writer, gone func()) (*consumer, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &consumer{
		addr: l.Addr().String(), out: out, gone: gone, done: make(chan struct{}), types: make(map[string]int),
	}
	c.server = &http.Server{Handler: http.HandlerFunc(c.receive), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(c.done)
		_ = c.server.Serve(l) // ends with close
	}()
	return c, nil
}

func (c *consumer) receive(w http.ResponseWriter, r *http.Request) {
	var ev event.Event
	if err := json.NewDecoder(r.Body).Decode(&ev); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// An event about the daemon itself does not show that anything came from the HMC.
	if ev.Origin != event.OriginBridge {
		c.types[ev.Type]++
	}
	what := ev.Summary
	if marks := terminal.Marks(&ev); marks != "" {
		what += " (" + marks + ")"
	}
	_, err := fmt.Fprintf(c.out, "%s  %-16s  %-8s  %s\n",
		ev.Time.Local().Format("15:04:05.000"), ev.Type, ev.Severity, what)
	if err != nil {
		c.alone = true
		c.gone() // nobody looks any more, as after: hmcnotifyd demo | head
	}
	w.WriteHeader(http.StatusNoContent)
}

// received returns how many events came, of how many types, and whether nobody looks at the output
// any more.
func (c *consumer) received() (events, types int, alone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.types {
		events += n
	}
	return events, len(c.types), c.alone
}

// close ends the consumer, after the requests that it is answering. It may be called again.
func (c *consumer) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), webShutdown)
	defer cancel()
	err := c.server.Shutdown(ctx)
	if err != nil {
		err = c.server.Close()
	}
	<-c.done
	return err
}
