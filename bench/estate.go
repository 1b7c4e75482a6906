package main

import (
	"context"
	"fmt"
	"os"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

const (
	// estateSize is how many partitions change their status, estateRate how many of them do each second.
	estateSize  = 10_000
	estateRate  = 2000
	estateCount = 3 * estateSize
	estateGoal  = 1.5
)

// statusChange is the ith of status changes of many partitions: each of them goes back and forth.
func statusChange(i int) hmcsim.Message {
	statuses := [...]string{"stopped", "active", "stopped"}
	round, partition := i/estateSize%2, i%estateSize
	return hmcsim.Message{Headers: []hmcsim.Header{
		{Name: "notification-type", Value: "status-change"},
		{Name: "class", Value: "partition"},
		{Name: "name", Value: fmt.Sprintf("PART%d", partition)},
		{Name: "object-uri", Value: fmt.Sprintf("/api/partitions/e12121da-c503-3117-8e79-%012x", partition)},
	}, Body: fmt.Appendf(nil, `{"change-reports":[{"old-status":%q,"old-additional-status":null,"new-status":%q,"new-additional-status":null}]}`,
		statuses[round], statuses[round+1])}
}

// compareEstate prints what a notification costs that changes an estate of many resources, and one that changes nothing of it.
func (b bench) compareEstate(ctx context.Context, rounds int) error {
	kinds := []struct {
		title   string
		message func(i int) hmcsim.Message
	}{
		{"property changes of 32 partitions", propertyChange},
		{fmt.Sprintf("status changes of %d partitions", estateSize), statusChange},
	}
	rounds = min(rounds, hmcRounds)
	results := make([][]result, len(kinds))
	b.count = estateCount
	for round := range rounds {
		for i, kind := range kinds {
			r, err := b.measureHMCs(ctx, 1, func(broker *hmcsim.Broker) error {
				return publishAt(ctx, broker, topicsOf(1), estateRate, b.count, kind.message)
			})
			if err != nil {
				return fmt.Errorf("%s: %w", kind.title, err)
			}
			results[i] = append(results[i], r)
			fmt.Fprintf(os.Stderr, "round %d of %d: (h) %s: %.1f us\n", round+1, rounds, kind.title, r.CPUSeconds/float64(b.count)*1e6)
		}
	}
	fmt.Printf("\n(h)  an estate that changes, %d notifications per second; medians of %d runs\n\n", estateRate, rounds)
	fmt.Printf("     %-40s %12s %10s %19s\n", "", "CPU us each", "cost", "resident MiB")
	cpu := func(i int) float64 {
		return median(results[i], func(r result) float64 { return r.CPUSeconds / float64(b.count) * 1e6 })
	}
	for i, kind := range kinds {
		goal := ""
		if i > 0 {
			goal = below(estateGoal, cpu(i)/cpu(0))
		}
		fmt.Printf("     %-40s %12.2f %9.2fx %19.1f%s\n", kind.title, cpu(i), cpu(i)/cpu(0), median(results[i], func(r result) float64 { return r.MiB }), goal)
	}
	return nil
}
