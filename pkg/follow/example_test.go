package follow_test

import (
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/follow"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// A simulator stands for the HMC.
func simulator() (sim *hmcsim.HMC, o follow.Options) {
	sim, err := hmcsim.Start(hmcsim.Options{})
	if err != nil {
		log.Fatal(err)
	}
	p := sim.Partitions()[0]
	return sim, follow.Options{
		Hosts: []string{sim.Host()}, RESTPort: sim.RESTPort(), StompPort: sim.StompPort(), TLS: sim.CA().ClientTLS(),
		Userid: hmcsim.DefaultUserid, Password: hmcsim.DefaultPassword, CPC: p.CPC, Partition: p.Name, Held: true,
	}
}

// The messages of a partition's operating system, for ever: through its stop and start, and through what happens to session, link
// and HMC.
func Example() {
	sim, options := simulator()
	defer sim.Close()
	if _, err := sim.OSMessages(options.Partition, "Kernel panic - not syncing: Fatal exception in interrupt"); err != nil {
		log.Fatal(err)
	}

	for m, err := range follow.OSMessages(context.Background(), options) {
		if hmc.LogonRefused(err) {
			log.Fatal(err) // the HMC would disable the userid
		}
		if err != nil {
			log.Print(err, "; going on")
			continue
		}
		if strings.HasPrefix(m.Text, "Kernel panic") {
			fmt.Println(m.Text)
			break
		}
	}
	// Output: Kernel panic - not syncing: Fatal exception in interrupt
}
