package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// manyHMCs are the numbers of HMCs whose cost is compared.
var manyHMCs = []int{1, 10, 50, 200}

// runHMCs is the daemon's bridge with t.arg HMCs and one log sink.
func runHMCs(ctx context.Context, t target) error {
	hmcs, err := strconv.Atoi(t.arg)
	if err != nil {
		return err
	}
	return runBridge(ctx, t, hmcs, 1)
}

// compareHMCs prints what a notification costs with few and many HMCs that send as many together.
func (b bench) compareHMCs(ctx context.Context, rounds int) error {
	results := make(map[int][]result)
	b.count -= b.count % manyHMCs[len(manyHMCs)-1]
	rounds = min(rounds, 3)
	for round := range rounds {
		for _, hmcs := range manyHMCs {
			r, err := b.measureHMCs(ctx, hmcs)
			if err != nil {
				return fmt.Errorf("%d HMCs: %w", hmcs, err)
			}
			results[hmcs] = append(results[hmcs], r)
			fmt.Fprintf(os.Stderr, "round %d of %d: (g) %d HMCs: %.0f notifications/s\n", round+1, rounds, hmcs, float64(b.count)/r.Seconds)
		}
	}
	cpu := func(hmcs int) float64 {
		return median(results[hmcs], func(r result) float64 { return r.CPUSeconds / float64(b.count) * 1e6 })
	}
	fmt.Printf("\n(g)  whole path with one log sink, %d notifications of all HMCs together, medians of %d runs\n\n", b.count, rounds)
	fmt.Printf("     %6s %16s %12s %10s %10s\n", "HMCs", "notifications/s", "CPU us each", "peak MiB", "cost")
	for _, hmcs := range manyHMCs {
		fmt.Printf("     %6d %16.0f %12.2f %10.1f %9.2fx\n", hmcs,
			median(results[hmcs], func(r result) float64 { return float64(b.count) / r.Seconds }), cpu(hmcs),
			median(results[hmcs], func(r result) float64 { return r.PeakMiB }), cpu(hmcs)/cpu(manyHMCs[0]))
	}
	return nil
}

// measureHMCs measures the bridge with so many HMCs: links of its own to one broker.
func (b bench) measureHMCs(ctx context.Context, hmcs int) (r result, err error) {
	broker, err := hmcsim.StartBroker(hmcsim.BrokerOptions{Topics: []string{topicName}})
	if err != nil {
		return r, err
	}
	defer func() { _ = broker.Close() }()
	dir, err := os.MkdirTemp(b.tmp, "hmcs-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	err = b.withProcess(ctx, "hmcs", dir, strconv.Itoa(hmcs), broker, func(lines *bufio.Scanner, _ int) error {
		if !lines.Scan() || lines.Text() != "ready" {
			return fmt.Errorf("the client is not ready: %q", lines.Text())
		}
		if _, err := broker.Flood(ctx, hmcsim.FloodOptions{Topic: topicName, Frames: int64(b.count / hmcs)}); err != nil {
			return err
		}
		if !lines.Scan() {
			return errors.New("the client ended without a result")
		}
		return json.Unmarshal(lines.Bytes(), &r)
	})
	return r, err
}
