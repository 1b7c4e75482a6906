package translate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

func parsed(headers receiver.Headers, body string, valid bool) *Notification {
	n := new(Notification)
	n.Parse(&receiver.Notification{Topic: "t", Received: time.Now(), Headers: headers, Body: []byte(body)}, valid)
	return n
}

// Each part of a notification has all headers of it, as long as that is not too much for all of them together: then it has those
// that say what it is of.
func TestHeadersOfManyParts(t *testing.T) {
	headers := receiver.Headers{
		{Name: "notification-type", Value: event.TypeOSMessage},
		{Name: "class", Value: "partition"},
		{Name: "name", Value: "P"},
		{Name: "object-uri", Value: "/api/partitions/p"},
		{Name: "object-id", Value: strings.Repeat("i", maxPartHeader+1)},
		{Name: "x-large", Value: strings.Repeat("x", 60_000)},
	}
	for parts, want := range map[int]int{1: len(headers), 100: len(headers), 1000: 4} {
		n := parsed(headers, `{"os-messages":[`+strings.Repeat(`{"message-text":"m"},`, parts-1)+`{"message-text":"m"}]}`, true)
		c := NewConverter("h", new(TopicTable), estate.New(), nil)
		seen := 0
		c.Convert(n, event.IDOf("x"), func(p *Part) {
			seen++
			if len(p.Headers) != want || p.Headers.Get("object-uri") != "/api/partitions/p" || p.Resource.Name != "P" {
				t.Fatalf("%d parts: headers %.300v", parts, p.Headers)
			}
		})
		if seen != parts {
			t.Errorf("%d of %d parts", seen, parts)
		}
		if len(n.Headers) != len(headers) {
			t.Errorf("the notification has %d headers", len(n.Headers))
		}
	}
	// What has no parts has them all, however large its body.
	headers[0].Value = event.TypePropertyChange
	n := parsed(headers, `{"change-reports":[`+strings.Repeat(`{},`, 1000)+`{}]}`, true)
	c := NewConverter("h", new(TopicTable), estate.New(), nil)
	c.Convert(n, event.IDOf("x"), func(p *Part) {
		if len(p.Headers) != len(headers) {
			t.Errorf("headers %.300v", p.Headers)
		}
	})
}

// What is kept for long of a notification is bounded, and keeps nothing else of it in memory; what tells it from others is not cut.
func TestLongNames(t *testing.T) {
	long := strings.Repeat("n", 10_000)
	headers := receiver.Headers{
		{Name: "notification-type", Value: event.TypeStatusChange},
		{Name: "class", Value: "partition"},
		{Name: "name", Value: long},
		{Name: "object-uri", Value: "/api/partitions/" + long},
		{Name: "message-id", Value: long + "1"},
		{Name: "x", Value: long + "1"},
	}
	n := parsed(headers, "{}", true)
	if r := &n.Resource; len(r.Name) != maxName || len(r.ObjectURI) != maxName {
		t.Errorf("a name of %d bytes, a URI of %d", len(r.Name), len(r.ObjectURI))
	}
	if n.Headers.Get("name") != long {
		t.Error("the header is cut")
	}
	first, _ := n.ID("h")
	for _, i := range []int{4, 5} {
		was := headers[i].Value
		headers[i].Value = long + "2"
		if other, _ := parsed(headers, "{}", true).ID("h"); other == first {
			t.Errorf("two notifications with other ends of %s have one id", headers[i].Name)
		}
		headers[i].Value = was
	}
}

// The last report of a change says how it is now, however many there are; a body that is no JSON is kept up to a length.
func TestLongBodies(t *testing.T) {
	headers := receiver.Headers{{Name: "notification-type", Value: event.TypeStatusChange}}
	var body strings.Builder
	for i := range 5 * maxReports {
		fmt.Fprintf(&body, `{"new-status":"s%d"},`, i)
	}
	n := parsed(headers, `{"change-reports":[`+strings.TrimSuffix(body.String(), ",")+`]}`, true)
	if last := n.Reports[len(n.Reports)-1]; len(n.Reports) != maxReports || last.NewStatus != fmt.Sprint("s", 5*maxReports-1) {
		t.Errorf("%d reports, the last one %+v", len(n.Reports), last)
	}
	for _, size := range []int{maxBodyText, maxBodyText + 1, 3 * maxBodyText} {
		n := parsed(headers, strings.Repeat("ö", size/2)+strings.Repeat("x", size%2), false)
		if cut := strings.HasSuffix(n.BodyText, "..."); len(n.BodyText) > maxBodyText || cut != (size > maxBodyText) {
			t.Errorf("%d bytes of %d are kept", len(n.BodyText), size)
		}
	}
}
