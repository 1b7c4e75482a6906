package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// manyHMCs are the numbers of HMCs whose cost is compared.
var manyHMCs = []int{1, 10, 50, 200}

const (
	// steadyRate is how many notifications per second all HMCs send together where they do not send as fast as they can, and
	// steadyTime for how long.
	steadyRate = 5000
	steadyTime = 4 * time.Second
	hmcRounds  = 3
	// hmcGoal bounds what a notification costs with the most HMCs, against one.
	hmcGoal = 1.2
)

// runHMCs is the daemon's bridge with t.arg HMCs and one log sink.
func runHMCs(ctx context.Context, t target) error {
	hmcs, err := strconv.Atoi(t.arg)
	if err != nil {
		return err
	}
	return runBridge(ctx, t, hmcs, 1, 50*time.Millisecond) // more often, asking for 200 of them would be what is measured
}

// compareHMCs prints what a notification costs with few and many HMCs, which send as many together.
func (b bench) compareHMCs(ctx context.Context, rounds int) error {
	steady, flood := make(map[int][]result), make(map[int][]result)
	rounds = min(rounds, hmcRounds)
	most := manyHMCs[len(manyHMCs)-1]
	whole := func(count int) int { return max(count-count%most, most) } // as many of each HMC
	atRate, atOnce := b, b
	atRate.count, atOnce.count = whole(int(steadyTime.Seconds()*steadyRate)), whole(b.count)
	for round := range rounds {
		for _, hmcs := range manyHMCs {
			r, err := atRate.measureHMCs(ctx, hmcs, func(broker *hmcsim.Broker) error {
				return publishAt(ctx, broker, topicsOf(hmcs), steadyRate, atRate.count, propertyChange)
			})
			if err != nil {
				return fmt.Errorf("%d HMCs: %w", hmcs, err)
			}
			steady[hmcs] = append(steady[hmcs], r)
			if r, err = atOnce.measureHMCs(ctx, hmcs, func(broker *hmcsim.Broker) error {
				return floodAll(ctx, broker, topicsOf(hmcs), int64(atOnce.count/hmcs))
			}); err != nil {
				return fmt.Errorf("%d HMCs at once: %w", hmcs, err)
			}
			flood[hmcs] = append(flood[hmcs], r)
			fmt.Fprintf(os.Stderr, "round %d of %d: (g) %d HMCs: %.0f notifications/s\n", round+1, rounds, hmcs, float64(atOnce.count)/r.Seconds)
		}
	}
	cpu := func(results map[int][]result, hmcs, count int) float64 {
		return median(results[hmcs], func(r result) float64 { return r.CPUSeconds / float64(count) * 1e6 })
	}
	fmt.Printf("\n(g)  whole path with one log sink, each HMC with a link of its own, as many notifications of all together; medians of %d runs\n\n", rounds)
	fmt.Printf("     %6s   %-45s   %s\n", "", fmt.Sprintf("%d per second", steadyRate), fmt.Sprintf("%d as fast as they are read", atOnce.count))
	fmt.Printf("     %6s   %12s %10s %19s   %12s %10s %17s %10s\n", "HMCs", "CPU us each", "cost", "resident MiB", "CPU us each", "cost", "notifications/s", "peak MiB")
	first := manyHMCs[0]
	for _, hmcs := range manyHMCs {
		calm, busy := cpu(steady, hmcs, atRate.count), cpu(flood, hmcs, atOnce.count)
		calmCost, busyCost, goal := calm/cpu(steady, first, atRate.count), busy/cpu(flood, first, atOnce.count), ""
		if hmcs == most {
			goal = below(hmcGoal, max(calmCost, busyCost))
		}
		fmt.Printf("     %6d   %12.2f %9.2fx %19.1f   %12.2f %9.2fx %17.0f %10.1f%s\n", hmcs,
			calm, calmCost, median(steady[hmcs], func(r result) float64 { return r.MiB }),
			busy, busyCost, median(flood[hmcs], func(r result) float64 { return float64(atOnce.count) / r.Seconds }),
			median(flood[hmcs], func(r result) float64 { return r.PeakMiB }), goal)
	}
	return nil
}

// floodAll sends so many frames on each topic, on all of them at the same time.
func floodAll(ctx context.Context, broker *hmcsim.Broker, topics []string, frames int64) error {
	errs := make(chan error, len(topics))
	for _, topic := range topics {
		go func() {
			_, err := broker.Flood(ctx, hmcsim.FloodOptions{Topic: topic, Frames: frames})
			errs <- err
		}()
	}
	var err error
	for range topics {
		err = errors.Join(err, <-errs)
	}
	return err
}

// measureHMCs measures the bridge with so many HMCs: links of their own to one broker.
func (b bench) measureHMCs(ctx context.Context, hmcs int, send func(*hmcsim.Broker) error) (r result, err error) {
	return b.measureBridge(ctx, "hmcs", strconv.Itoa(hmcs), hmcs, send)
}

// measureBridge measures a process with a bridge that has so many HMCs.
func (b bench) measureBridge(ctx context.Context, child, arg string, hmcs int, send func(*hmcsim.Broker) error) (r result, err error) {
	broker, err := hmcsim.StartBroker(hmcsim.BrokerOptions{Topics: topicsOf(hmcs)})
	if err != nil {
		return r, err
	}
	defer func() { _ = broker.Close() }()
	err = b.withClient(ctx, child, arg, broker, func(lines *bufio.Scanner, _ int) error {
		if !lines.Scan() || lines.Text() != "ready" {
			return fmt.Errorf("the client is not ready: %q", lines.Text())
		}
		if err := send(broker); err != nil {
			return err
		}
		if !lines.Scan() {
			return errors.New("the client ended without a result")
		}
		return json.Unmarshal(lines.Bytes(), &r)
	})
	return r, err
}
