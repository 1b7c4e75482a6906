package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"github.com/alecthomas/kingpin/v2"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cmdline"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/playback"
)

// maxSimulatedRate is far more than the simulator reaches.
const maxSimulatedRate = 1e6

// maxSimulatedHMCs is far more than watch one estate in real life.
const maxSimulatedHMCs = 100

// replayMemory is what a capture that is played back takes, in bytes, before garbage is collected
// without delay: one of the largest lines is in memory several times while it is on its way.
const replayMemory = 36 << 20

// maxSpeed is an hour in less than four seconds.
const maxSpeed = 1000

type simulateFlags struct {
	restPort, stompPort uint16
	rate                float64
	cpcs, partitions    int
	hmcs                int
	caOut               string
	replay              string
	speed               float64
}

func simulateCommand(app *kingpin.Application, e *environment) {
	f := &e.simulator
	c := e.command(app, "simulate",
		"Run a simulated HMC (Web Services API and STOMP over TLS, on loopback) until Ctrl-C. "+
			"It takes commands on its standard input; help lists them.", e.simulate, f.validate)
	c.Flag("rest-port", "Port of the Web Services API; 0 for a free one.").Default("6794").Uint16Var(&f.restPort)
	c.Flag("stomp-port", "Port of the STOMP broker; 0 for a free one.").Default("61612").Uint16Var(&f.stompPort)
	c.Flag("rate", "Notifications per second.").Default("5").Float64Var(&f.rate)
	c.Flag("cpcs", "Number of CPCs; every second one is in DPM mode.").Default("2").IntVar(&f.cpcs)
	c.Flag("partitions", "Number of partitions of all CPCs together.").Default("8").IntVar(&f.partitions)
	c.Flag("hmcs", "Number of HMCs that manage the same CPCs. Each further one has the next ports, or free ones.").
		Default("1").IntVar(&f.hmcs)
	cmdline.Filled(c.Flag("ca-out", "Write the certificate of the simulator's CA to this file.").
		PlaceHolder("FILE"), &f.caOut)
	cmdline.Filled(c.Flag("replay", "Play this capture back instead, from the first subscription on.").
		PlaceHolder("FILE"), &f.replay)
	c.Flag("speed", "How many times as fast as it was a capture is played.").Default("1").Float64Var(&f.speed)
}

func (f *simulateFlags) validate() error {
	switch {
	case !(f.speed > 0 && f.speed <= maxSpeed):
		return fmt.Errorf("--speed must be a number above 0, up to %g", float64(maxSpeed))
	case f.speed != 1 && f.replay == "":
		return errors.New("--speed is that of a capture: --replay names it")
	case !(f.rate >= 0 && f.rate <= maxSimulatedRate): // NaN is neither
		return fmt.Errorf("--rate must be a number from 0 to %g", float64(maxSimulatedRate))
	case f.cpcs < 1:
		return errors.New("--cpcs must be at least 1")
	case f.partitions < 0:
		return errors.New("--partitions must not be negative")
	case f.hmcs < 1 || f.hmcs > maxSimulatedHMCs:
		return fmt.Errorf("--hmcs must be from 1 to %d", maxSimulatedHMCs)
	case int(f.restPort)+f.hmcs-1 > 65535:
		return fmt.Errorf("--rest-port: no %d ports from %d on", f.hmcs, f.restPort)
	case int(f.stompPort)+f.hmcs-1 > 65535:
		return fmt.Errorf("--stomp-port: no %d ports from %d on", f.hmcs, f.stompPort)
	}
	apart := max(int(f.restPort), int(f.stompPort)) - min(int(f.restPort), int(f.stompPort))
	if f.restPort != 0 && f.stompPort != 0 && apart < f.hmcs {
		if apart == 0 {
			return fmt.Errorf("--stomp-port: %d is that of --rest-port", f.stompPort)
		}
		return fmt.Errorf("--stomp-port: each further HMC has the next ports, so that with --hmcs=%d "+
			"it must be at least %d from --rest-port %d, not %d", f.hmcs, f.hmcs, f.restPort, apart)
	}
	return nil
}

func (e *environment) simulate(ctx context.Context) (err error) {
	if e.simulator.replay != "" {
		return e.playBack(ctx)
	}
	hmcs, err := e.simulator.start(e.log)
	defer func() {
		for _, h := range hmcs {
			err = cmp.Or(err, h.Close())
		}
	}()
	if err != nil {
		return fmt.Errorf("simulate: %w", err)
	}
	tls, err := e.simulator.tlsConfig(hmcs[0].CACertPEM())
	if err != nil {
		return err
	}
	fmt.Fprint(e.stdout, simulatedConfig(hmcs, tls))
	// A program in the background that reads from its terminal is stopped; one that ignores the
	// signal reads an error.
	signal.Ignore(syscall.SIGTTIN)
	hmcsim.ServeConsole(ctx, hmcs, os.Stdin, e.stdout)
	return nil
}

// tlsConfig writes the certificate where it is to be, and returns what a configuration needs.
func (f *simulateFlags) tlsConfig(certificate []byte) (string, error) {
	if f.caOut == "" {
		return "insecure_skip_verify: true   " +
			"# or start the simulator with --ca-out FILE, and name FILE here as ca_file", nil
	}
	path, err := filepath.Abs(f.caOut)
	if err == nil {
		err = os.WriteFile(path, certificate, 0o644) //nolint:gosec // a certificate is public
	}
	if err != nil {
		return "", fmt.Errorf("simulate: --ca-out: %w", err)
	}
	return "ca_file: " + strconv.Quote(path), nil
}

// playBack plays a capture back until ctx is done: the link stays when it is played.
func (e *environment) playBack(ctx context.Context) (err error) {
	f := &e.simulator
	was := debug.SetMemoryLimit(-1)
	debug.SetMemoryLimit(min(was, replayMemory))
	defer debug.SetMemoryLimit(was)
	h, err := playback.Start(ctx, playback.Options{
		File: f.replay, Speed: f.speed, Logger: e.log,
		RESTAddr: address(f.restPort, 0), StompAddr: address(f.stompPort, 0),
	})
	if ctx.Err() != nil && h == nil {
		return nil // Ctrl-C while it was read
	}
	if err != nil {
		return fmt.Errorf("simulate: --replay: %w", err)
	}
	defer func() { err = cmp.Or(err, h.Close()) }()
	tls, err := f.tlsConfig(h.CACertPEM())
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "# %s is played back: %s. A configuration that fits:\nhmcs:\n%s%s", f.replay, h,
		hmcConfig(h, "replay", tls), screenConfig)
	select {
	case <-ctx.Done():
		return nil
	case <-h.Played():
	}
	if err := h.Err(); err != nil {
		return fmt.Errorf("simulate: --replay: %w", err)
	}
	fmt.Fprintln(e.stdout, "# all of it was played. The link stays until Ctrl-C.")
	<-ctx.Done()
	return nil
}

// address is that of the HMC's port; 0: a free one.
func address(port uint16, i int) string {
	if port != 0 {
		port += uint16(i)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))
}

// start starts the HMCs, all over the first one's estate. After an error it returns those that it
// has started.
func (f *simulateFlags) start(log *zap.Logger) ([]*hmcsim.HMC, error) {
	partitions := f.partitions
	if partitions == 0 {
		partitions = -1 // what the simulator calls none
	}
	var hmcs []*hmcsim.HMC
	for i := range f.hmcs {
		opts := hmcsim.Options{
			Name:     "simulated",
			RESTAddr: address(f.restPort, i), StompAddr: address(f.stompPort, i),
			Rate: f.rate, CPCs: f.cpcs, Partitions: partitions, Logger: log,
		}
		if f.hmcs > 1 {
			opts.Name = fmt.Sprintf("simulated-%d", i+1)
		}
		if i > 0 {
			opts.EstateOf = hmcs[0]
		}
		h, err := hmcsim.Start(opts)
		if err != nil {
			return hmcs, err
		}
		hmcs = append(hmcs, h)
	}
	return hmcs, nil
}

// screenConfig is the other part of a configuration.
const screenConfig = `sinks:
  - name: screen
    log: {output: stdout}
# Ctrl-C ends it.
`

// simulatedConfig is a configuration that fits the HMCs.
func simulatedConfig(hmcs []*hmcsim.HMC, tls string) string {
	var b strings.Builder
	what, more := "A simulated HMC is", ""
	if len(hmcs) > 1 {
		what, more = fmt.Sprintf("%d simulated HMCs of the same CPCs are", len(hmcs)), "\n    group: simulated"
	}
	fmt.Fprintf(&b, "# %s running. A configuration that fits:\nhmcs:\n", what)
	for _, h := range hmcs {
		b.WriteString(hmcConfig(h, h.Name()+more, tls))
	}
	b.WriteString(screenConfig + "# Commands are read from standard input; help lists them.\n")
	return b.String()
}

type ports interface {
	RESTPort() int
	StompPort() int
}

// hmcConfig is the part of a configuration that is about a simulated HMC.
func hmcConfig(h ports, name, tls string) string {
	return fmt.Sprintf(`  - name: %s
    hosts: ["127.0.0.1"]
    rest_port: %d
    stomp_port: %d
    userid: %s
    password: %s
    tls:
      %s
    topics: [object, job, audit, security]
    os_messages:
      - {cpc: ".*", partition: ".*"}
`, name, h.RESTPort(), h.StompPort(), hmcsim.DefaultUserid, hmcsim.DefaultPassword, tls)
}
