package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/docs/rules"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

const (
	// rulesRate is how many notifications per second come where they do not come as fast as they are read, and rulesTime for
	// how long.
	rulesRate = 1000
	rulesTime = 5 * time.Second
	manyRules = 200
)

// rulesGoal is what a notification may cost with rules, in comparison with none.
const rulesGoal = 1.15

// runRules is the daemon's bridge with t.arg rules and one log sink.
func runRules(ctx context.Context, t target) error {
	n, err := strconv.Atoi(t.arg)
	if err != nil {
		return err
	}
	return runBridgeWith(ctx, t, 1, t.logSinks(1)+rulesOf(n), 1, 50*time.Millisecond)
}

// rulesOf returns so many rules as a configuration has them: the ready sets, and more that look for the messages of a product.
func rulesOf(n int) string {
	if n == 0 {
		return ""
	}
	var yaml strings.Builder
	yaml.WriteString("rules:\n")
	for _, set := range rules.Sets() {
		text, _ := rules.Files.ReadFile(set + ".yaml") // it is embedded
		n -= bytes.Count(text, []byte("\n- match:"))
		fmt.Fprintf(&yaml, "- include: %s\n", set)
	}
	for i := range n {
		fmt.Fprintf(&yaml, "- match: [{type: [os-message], text: '\\bPRD%03d[EW]\\b', name: 'PROD.*'}]\n  severity: warning\n", i)
	}
	return yaml.String()
}

// compareRules prints what a notification costs with and without rules.
func (b bench) compareRules(ctx context.Context, rounds int) error {
	steady, flood := make(map[int][]result), make(map[int][]result)
	atRate := b
	atRate.count = int(rulesTime.Seconds() * rulesRate)
	topics := topicsOf(1)
	for round := range rounds {
		for _, n := range []int{0, manyRules} {
			r, err := atRate.measureBridge(ctx, "rules", strconv.Itoa(n), 1, func(broker *hmcsim.Broker) error {
				return publishAt(ctx, broker, topics, rulesRate, atRate.count, mixed)
			})
			if err != nil {
				return fmt.Errorf("%d rules: %w", n, err)
			}
			steady[n] = append(steady[n], r)
			if r, err = b.measureBridge(ctx, "rules", strconv.Itoa(n), 1, func(broker *hmcsim.Broker) error {
				return floodAll(ctx, broker, topics, int64(b.count))
			}); err != nil {
				return fmt.Errorf("%d rules at once: %w", n, err)
			}
			flood[n] = append(flood[n], r)
			fmt.Fprintf(os.Stderr, "round %d of %d: (r) %d rules: %.0f notifications/s\n", round+1, rounds, n, float64(b.count)/r.Seconds)
		}
	}
	cpu := func(results map[int][]result, n, count int) float64 {
		return median(results[n], func(r result) float64 { return r.CPUSeconds / float64(count) * 1e6 })
	}
	fmt.Printf("\n(r)  whole path with one log sink, with and without rules; CPU of a notification, medians of %d runs\n\n", rounds)
	fmt.Printf("     %6s   %-32s   %s\n", "rules", fmt.Sprintf("%d per second", rulesRate), fmt.Sprintf("%d as fast as they are read", b.count))
	for _, n := range []int{0, manyRules} {
		calm, busy := cpu(steady, n, atRate.count), cpu(flood, n, b.count)
		ratio := calm / cpu(steady, 0, atRate.count)
		fmt.Printf("     %6d   %8.2f us %6.2fx %s   %8.2f us %6.2fx\n", n, calm, ratio, below(rulesGoal, ratio), busy, busy/cpu(flood, 0, b.count))
	}
	return nil
}

// mixed is a notification of the kinds that come in masses, each another one.
func mixed(i int) hmcsim.Message {
	all := hmcsim.FloodMessages()
	m := all[i%len(all)]
	m.Body = bytes.ReplaceAll(m.Body, []byte(hmcsim.FloodNumber), strconv.AppendInt(nil, 1_000_000_000+int64(i), 10))
	m.Body = bytes.ReplaceAll(m.Body, []byte(hmcsim.FloodSequence), strconv.AppendInt(nil, 2_000_000_000+int64(i/len(all)), 10))
	return m
}
