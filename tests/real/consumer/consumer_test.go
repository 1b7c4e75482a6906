package consumer_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/consumer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func post(t *testing.T, url, id, body string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Webhook-Id", id)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

func TestConsumer(t *testing.T) {
	c := consumer.Start(t)
	if got := post(t, c.URL, "1", `{"id":"1","hmc":"a","type":"status-change","resource":{"name":"P"}}`); got != http.StatusOK {
		t.Errorf("status %d", got)
	}
	c.Answer(func(r consumer.Request) int {
		if r.Header.Get("Webhook-Id") == "2" {
			return http.StatusServiceUnavailable
		}
		return http.StatusAccepted
	})
	if got := post(t, c.URL, "2", `{"id":"2","hmc":"b","type":"os-message"}`); got != http.StatusServiceUnavailable {
		t.Errorf("status %d", got)
	}
	post(t, c.URL, "b", `[{"id":"3","hmc":"a","type":"os-message"},{"id":"4","hmc":"b","type":"os-message"}]`)

	if got := c.Await(t, 10*time.Second, 3); got[0].Resource.Name != "P" || got[1].ID != "3" || got[2].ID != "4" {
		t.Errorf("events %+v", got)
	}
	if got := c.Events(consumer.HMC("a"), consumer.Type("os-message")); len(got) != 1 || string(got[0].Raw) != `{"id":"3","hmc":"a","type":"os-message"}` {
		t.Errorf("events %+v", got)
	}
	if got := c.Requests(); len(got) != 3 {
		t.Errorf("%d requests", len(got))
	}
}

// Who waits for events waits for different ones: a kill makes the last ones come once more.
func TestAnEventDeliveredTwiceIsAwaitedOnce(t *testing.T) {
	c := consumer.Start(t)
	for _, id := range []string{"1", "2", "1", "2", "3"} {
		post(t, c.URL, id, `{"id":"`+id+`","type":"bridge-gap"}`)
	}
	if got := c.Await(t, 10*time.Second, 3); len(got) != 3 || got[0].ID != "1" || got[1].ID != "2" || got[2].ID != "3" {
		t.Errorf("awaited %+v", got)
	}
	if got := c.Events(); len(got) != 5 {
		t.Errorf("%d deliveries, want 5", len(got))
	}
}
