package bridge

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/probe"
)

// What somebody does by the Web Services API is in the audit log, and so the change that it makes is planned. Processors that are
// stopped and go on are no IPL.
func TestPlannedByTheAPI(t *testing.T) {
	t.Parallel()
	sim, d, _ := plex(t, probe.Intervals{}, "topics: [object, job, audit]")
	session, err := sim.NewSession(hmcsim.DefaultUserid)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	t.Cleanup(client.CloseIdleConnections)
	operate := func(operation, body string) {
		t.Helper()
		p, err := sim.Partition("M90/LP05")
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequestWithContext(context.Background(), http.MethodPost,
			"https://"+net.JoinHostPort(sim.Host(), strconv.Itoa(sim.RESTPort()))+p.URI+"/operations/"+operation, bytes.NewReader([]byte(body)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-API-Session", session.SessionID)
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = answer.Body.Close() }()
		if text, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusAccepted {
			t.Fatalf("%s: %d %s %v", operation, answer.StatusCode, text, err)
		}
		d.eventually(operation+" is done", func() bool {
			p, err := sim.Partition("M90/LP05")
			return err == nil && !p.Busy
		})
	}
	for _, step := range []struct{ operation, body, want string }{
		{"stop", "{}", "operating -> not-operating; 1 of 4 members of PLEX1 is down; stopped by hmcuser"},
		{"start", "{}", "not-operating -> operating; started by hmcuser"},
		{"deactivate", `{"force":true}`, "operating -> not-activated; 1 of 4 members of PLEX1 is down; deactivated by hmcuser"},
	} {
		operate(step.operation, step.body)
		d.eventually(step.operation+" is told", func() bool {
			return slices.ContainsFunc(about(d.consumer.got(), "LP05", event.TypeStatusChange), func(e *event.Event) bool {
				text, after, _ := strings.Cut(e.Summary, " (")
				if _, rest, ok := strings.Cut(after, ")"); ok {
					text += rest
				}
				return e.Planned && strings.HasSuffix(text, step.want)
			})
		})
	}
	if ipls := about(d.consumer.got(), "LP05", event.TypeIPL); len(ipls) > 0 {
		t.Errorf("%d IPLs: %s", len(ipls), fmt.Sprint(ipls[0].Summary))
	}
}
