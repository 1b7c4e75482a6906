package bridge

import (
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// A refused logon says which setting to look at, and that the HMC is left alone from now on is in the log however often
// the same was tried before.
func TestRefusedSaysWhatToChange(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		sim  hmcsim.Options
		keys func(*testing.T, *hmcsim.HMC) string
		held bool   // is left alone: it is about userid or password
		want string // in readiness and log
	}{
		{
			"wrong password",
			hmcsim.Options{Password: "right", Userid: "hmcuser"},
			func(*testing.T, *hmcsim.HMC) string { return "userid: hmcuser\n    password: wrong" },
			true,
			"check password or password_file, and on the HMC whether userid hmcuser is disabled",
		},
		{
			"wrong password at the broker",
			hmcsim.Options{},
			func(*testing.T, *hmcsim.HMC) string {
				return "userid: hmcuser\n    password: wrong\n    topic_names: [x.1]"
			},
			true,
			"check password or password_file, and on the HMC whether userid hmcuser is disabled",
		},
		{
			"session refused by the broker",
			hmcsim.Options{},
			func(t *testing.T, sim *hmcsim.HMC) string {
				s, err := sim.NewSession(hmcsim.DefaultUserid)
				if err != nil {
					t.Fatal(err)
				}
				return "session: {id: " + s.SessionID + ", credential: " + s.Credential + "}"
			},
			false,
			"make a new one and name it in session.id and session.credential",
		},
		{
			"sessions refused by the broker",
			hmcsim.Options{},
			func(*testing.T, *hmcsim.HMC) string { return "topics: [object]" },
			false,
			"the broker refuses the sessions that the Web Services API makes",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.sim.Partitions = -1
			sim := hmctest.Start(t, test.sim)
			if !test.held {
				sim.Broker().FaultAlways(hmcsim.Fault{Kind: hmcsim.FaultBadLogin})
			}
			d := startDaemon(t, hmcYAML(t, "a", sim, test.keys(t, sim)))
			d.eventually("readiness says so", func() bool { return strings.Contains(d.statusText(), test.want) })
			if !test.held {
				d.eventually("tried again and again", func() bool { return sim.Broker().Stats().RefusedLogons > 10 })
				if d.hmc("a").State == status.StateAuthFailed {
					t.Error("is held, though nobody says that the password is wrong")
				}
				sim.Broker().FaultAlways()
				d.connected("a")
				return
			}
			d.eventually("auth_failed", func() bool { return d.hmc("a").State == status.StateAuthFailed })
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
