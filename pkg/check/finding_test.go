package check

import (
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

// Each line of what is found names what it is about, and nothing of it can steer a terminal.
func TestFinding(t *testing.T) {
	t.Parallel()
	var steps []string
	f := &finding{name: "hmc a", onStep: func(name, step string) { steps = append(steps, name+"/"+step) }}
	f.step("connecting to %s", "h")
	f.info("one\ntwo")
	f.warn("%d days", 3)
	if err := f.err(); err != nil {
		t.Error(err)
	}
	f.problem("x\x1b[31m\ny")
	if got := f.String(); got != "hmc a: one\nhmc a: two\nhmc a: warning: 3 days\n" {
		t.Errorf("%q", got)
	}
	if got := f.err().Error(); got != "hmc a: x [31m\nhmc a: y" {
		t.Errorf("%q", got)
	}
	if len(steps) != 1 || steps[0] != "hmc a/connecting to h" {
		t.Errorf("%q", steps)
	}
}

// Those that share userid and password, or a session, take turns; others do not wait for them.
func TestLogonTurns(t *testing.T) {
	t.Parallel()
	hmc := func(userid, session string) *config.HMC {
		c := &config.HMC{Userid: userid, Password: config.NewSecret("p")}
		if session != "" {
			c.Session = &config.Session{ID: config.NewSecret(session)}
		}
		return c
	}
	var turns logonTurns
	u := turns.of(hmc("u", ""))
	if turns.of(hmc("u", "")) != u || turns.of(hmc("v", "")) == u || turns.of(hmc("u", "s")) == u || turns.of(hmc("u", "s")) != turns.of(hmc("v", "s")) {
		t.Error("not who shares what")
	}
}
