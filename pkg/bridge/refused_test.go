package bridge

import (
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/watch"
)

// A refused logon says which setting to look at, and that the HMC is left alone from now on is in the log however often
// the same was tried before.
func TestRefusedSaysWhatToChange(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		sim  hmcsim.Options
		keys func(*testing.T, *hmcsim.HMC) string
		want string // in readiness and log
	}{
		{
			"wrong password",
			hmcsim.Options{Password: "right", Userid: "hmcuser"},
			func(*testing.T, *hmcsim.HMC) string { return "userid: hmcuser\n    password: wrong" },
			"check password or password_file, and on the HMC whether userid hmcuser is disabled",
		},
		{
			"wrong password at the broker",
			hmcsim.Options{},
			func(*testing.T, *hmcsim.HMC) string {
				return "userid: hmcuser\n    password: wrong\n    topic_names: [x.1]"
			},
			"check password or password_file, and on the HMC whether userid hmcuser is disabled",
		},
		{
			"session refused by the broker",
			hmcsim.Options{Broker: hmcsim.BrokerOptions{Faults: badLogins}},
			func(t *testing.T, sim *hmcsim.HMC) string {
				s, err := sim.NewSession(hmcsim.DefaultUserid)
				if err != nil {
					t.Fatal(err)
				}
				return "session: {id: " + s.SessionID + ", credential: " + s.Credential + "}"
			},
			"make a new one and name it in session.id and session.credential",
		},
		{
			"sessions refused by the broker",
			hmcsim.Options{Broker: hmcsim.BrokerOptions{Faults: badLogins}},
			func(*testing.T, *hmcsim.HMC) string { return "topics: [object]" },
			"the broker refuses the sessions that the Web Services API makes",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.sim.Partitions = -1
			sim := startSim(t, test.sim)
			d := startDaemon(t, hmcYAML(t, "a", sim, test.keys(t, sim)))
			d.eventually("auth_failed", func() bool { return d.hmc("a").State == status.StateAuthFailed })
			if text := d.statusText(); !strings.Contains(text, test.want) {
				t.Errorf("readiness does not say %q: %s", test.want, text)
			}
			d.eventually("an error in the log", func() bool {
				for line := range strings.Lines(d.logs.String()) {
					if strings.Contains(line, `"level":"error"`) && strings.Contains(line, test.want) && strings.Contains(line, `"next_attempt_in":3600`) {
						return true
					}
				}
				return false
			})
		})
	}
}

// badLogins are more than the supervisor tries.
var badLogins = func() [][]hmcsim.Fault {
	var conns [][]hmcsim.Fault
	for range 2 * watch.RefusalsBeforeHold {
		conns = append(conns, []hmcsim.Fault{{Kind: hmcsim.FaultBadLogin}})
	}
	return conns
}()
