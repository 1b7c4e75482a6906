package hmcsim_test

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// An HMC, and an estate that does what it is told.
func ExampleStart() {
	h, err := hmcsim.Start(hmcsim.Options{Partitions: 4, StepDelay: time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = h.Close() }()

	transport := &http.Transport{TLSClientConfig: h.CA().ClientTLS()}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, h.URL()+"/api/version", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = resp.Body.Close()
	fmt.Println(resp.Status)

	if err := h.StopPartition("CPC1/PART1"); err != nil {
		fmt.Println(err)
	}
	for _, p := range h.Partitions() {
		fmt.Println(p.CPC, p.Name, p.Status)
	}
	// Output:
	// 200 OK
	// CPC1 PART1 stopping
	// M90 LP01 operating
	// CPC1 PART2 active
	// M90 LP02 operating
}

// A broker alone whose first connection is cut after ten notifications, whose second never gets an answer to CONNECT,
// and whose third works.
func ExampleBroker_Script() {
	b, err := hmcsim.StartBroker(hmcsim.BrokerOptions{Topics: []string{"ensadmin.145"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = b.Close() }()
	b.Script(
		[]hmcsim.Fault{{Kind: hmcsim.FaultDrop, AfterFrames: 10}},
		[]hmcsim.Fault{{Kind: hmcsim.FaultHangConnect}},
	)
	// The same from text, as a command-line flag may have it.
	script, err := hmcsim.ParseScript("drop,frames=10; hang-connect")
	fmt.Println(script, err)
	// Output: [[drop,frames=10] [hang-connect]] <nil>
}
