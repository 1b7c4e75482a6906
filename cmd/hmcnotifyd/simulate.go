package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// maxSimulatedRate is far more than the simulator reaches.
const maxSimulatedRate = 1e6

type simulateFlags struct {
	restPort, stompPort uint16
	rate                float64
	cpcs, partitions    int
	caOut               string
}

func simulateCommand(app *kingpin.Application, e *environment) string {
	c := app.Command("simulate", "Run a simulated HMC (Web Services API and STOMP over TLS, on loopback) until Ctrl-C.")
	f := &e.simulator
	c.Flag("rest-port", "Port of the Web Services API; 0 for a free one.").Default("6794").Uint16Var(&f.restPort)
	c.Flag("stomp-port", "Port of the STOMP broker; 0 for a free one.").Default("61612").Uint16Var(&f.stompPort)
	c.Flag("rate", "Notifications per second.").Default("5").Float64Var(&f.rate)
	c.Flag("cpcs", "Number of CPCs; every second one is in DPM mode.").Default("2").IntVar(&f.cpcs)
	c.Flag("partitions", "Number of partitions of all CPCs together.").Default("8").IntVar(&f.partitions)
	c.Flag("ca-out", "Write the certificate of the simulator's CA to this file.").PlaceHolder("FILE").StringVar(&f.caOut)
	c.Validate(func(*kingpin.CmdClause) error {
		switch {
		case !(f.rate >= 0 && f.rate <= maxSimulatedRate): // NaN is neither
			return fmt.Errorf("--rate must be a number from 0 to %g", float64(maxSimulatedRate))
		case f.cpcs < 1:
			return errors.New("--cpcs must be at least 1")
		case f.partitions < 0:
			return errors.New("--partitions must not be negative")
		}
		return nil
	})
	return c.FullCommand()
}

func (e *environment) simulate(ctx context.Context) error {
	log, err := e.newLogger()
	if err != nil {
		return err
	}
	f := e.simulator
	partitions := f.partitions
	if partitions == 0 {
		partitions = -1 // what the simulator calls none
	}
	sim, err := hmcsim.Start(hmcsim.Options{
		RESTAddr:  net.JoinHostPort("127.0.0.1", strconv.Itoa(int(f.restPort))),
		StompAddr: net.JoinHostPort("127.0.0.1", strconv.Itoa(int(f.stompPort))),
		Rate:      f.rate, CPCs: f.cpcs, Partitions: partitions, Logger: log,
	})
	if err != nil {
		return fmt.Errorf("simulate: %w", err)
	}
	tls := "insecure_skip_verify: true   # or start the simulator with --ca-out FILE, and name FILE here as ca_file"
	if f.caOut != "" {
		path, err := filepath.Abs(f.caOut)
		if err == nil {
			err = os.WriteFile(path, sim.CACertPEM(), 0o644) //nolint:gosec // a certificate is public
		}
		if err != nil {
			return fmt.Errorf("simulate: --ca-out: %w", firstError(err, sim.Close()))
		}
		tls = "ca_file: " + strconv.Quote(path)
	}
	fmt.Fprintf(e.stdout, `# A simulated HMC is running. A configuration that fits it:
hmcs:
  - name: simulated
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
sinks:
  - name: screen
    log: {output: stdout}
# Ctrl-C ends it.
`, sim.RESTPort(), sim.StompPort(), hmcsim.DefaultUserid, hmcsim.DefaultPassword, tls)
	<-ctx.Done()
	return sim.Close()
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
