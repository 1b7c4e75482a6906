//go:build real

package hmcsim

import (
	"slices"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/activemq"
)

// eof is a step of a script: wait for the end of the connection.
type eof struct{}

func isEOF(step any) bool {
	_, ok := step.(eof)
	return ok
}

// TestBrokerAnswersAsActiveMQ lets Apache ActiveMQ, the broker inside an HMC, judge ours: the same bytes must get the
// same answers from both.
func TestBrokerAnswersAsActiveMQ(t *testing.T) {
	judge := activemq.Start(t, activemq.Options{Approved: []string{"u.>"}})
	publisher := judge.Publisher(t)
	ours := startBroker(t, BrokerOptions{PlainText: true, Topics: []string{"u.1", "u.1job"}})

	plain := Message{[]Header{{"notification-type", "status-change"}, {"class", "partition"}}, []byte(`{"a":"b"}`)}
	special := Message{[]Header{{"name", `a:b\c` + "\n" + "é"}, {"property-names", " x y "}}, []byte("{\"text\":\"a\\nb\"}\n")}
	empty := Message{[]Header{{"notification-type", "job-completion"}}, nil}

	// A string is sent, and what is answered belongs to the answers. A Message is published, and what comes of it
	// too; an int before says how many MESSAGE frames that is, else 1. eof waits for the end of the connection.
	for name, script := range map[string][]any{
		"CONNECT 1.1":               {connect11},
		"CONNECT 1.2":               {connectWith("accept-version:1.0,1.1,1.2\nheart-beat:50000,70000\n")},
		"CONNECT without a version": {connectWith("")},
		"CONNECT versions, spaces":  {connectWith("accept-version:1.0, 1.1, 1.2\n")},
		"CONNECT unknown version":   {connectWith("accept-version:2.0\n"), eof{}},
		"CONNECT with a receipt":    {connectWith("accept-version:1.1\nreceipt:a\\b\n")},
		"CONNECT bad heart-beat":    {connectWith("accept-version:1.1\nheart-beat:xyz\n"), eof{}},
		"CONNECT as STOMP":          {strings.Replace(connect11, "CONNECT", "STOMP", 1)},
		"CONNECT after EOLs":        {"\n\r\n\n" + connect11},
		"CONNECT with CR LF":        {strings.ReplaceAll(connect11, "\n", "\r\n")},
		"CONNECT twice":             {connect11, connect11},
		"wrong password":            {strings.Replace(connect11, "hmcpass", "x:\\c", 1), eof{}},
		"wrong password, receipt":   {connectWith("accept-version:1.1\nreceipt:r1\npasscode:wrong\n"), eof{}},
		"unknown user":              {strings.Replace(connect11, "hmcuser", "no:body", 1), eof{}},
		"not connected":             {subscribeFrame("s1", "u.1", "r1")},
		"SUBSCRIBE":                 {connect11, subscribeFrame("s1", "u.1", "r:1")},
		"SUBSCRIBE escaped":         {connect11, subscribeFrame(`a\cb\\c`, "u.1", `r\c1`), plain},
		"SUBSCRIBE odd escape":      {connect11, subscribeFrame(`a\tb`, "u.1", "r1")},
		"SUBSCRIBE without id":      {connect11, "SUBSCRIBE\ndestination:/topic/u.1\nreceipt:r\n\n\x00"},
		"SUBSCRIBE without topic":   {connect11, "SUBSCRIBE\nid:1\nreceipt:r\n\n\x00"},
		"SUBSCRIBE without colon":   {connect11, "SUBSCRIBE\nabc\n\n\x00"},
		"SUBSCRIBE id used": {
			connect11, subscribeFrame("s", "u.1", "r1"), subscribeFrame("s", "u.1", "r2"), 2, plain,
			"UNSUBSCRIBE\nid:s\nreceipt:r3\n\n\x00", 1, plain, "UNSUBSCRIBE\nid:s\nreceipt:r4\n\n\x00", 1, plain,
		},
		"SUBSCRIBE 1.0, no id": {
			connectWith(""), "SUBSCRIBE\ndestination:/topic/u.1\nreceipt:r\n\n\x00",
			plain, "UNSUBSCRIBE\ndestination:/topic/u.1\nreceipt:r\n\n\x00", "UNSUBSCRIBE\nreceipt:r\n\n\x00",
		},
		"two subscriptions":      {connect11, subscribeFrame("a", "u.1", "r1") + subscribeFrame("b", "u.1", "r2"), 2, plain},
		"UNSUBSCRIBE":            {connect11, subscribeFrame("s", "u.1", "r1"), plain, "UNSUBSCRIBE\nid:s\nreceipt:r2\n\n\x00", 0, plain},
		"UNSUBSCRIBE unknown":    {connect11, "UNSUBSCRIBE\nid:zz\nreceipt:r\n\n\x00"},
		"UNSUBSCRIBE without id": {connect11, "UNSUBSCRIBE\nreceipt:r\n\n\x00"},
		"MESSAGE 1.0":            {connectWith(""), subscribeFrame("s", "u.1", "r"), plain, special, empty},
		"MESSAGE 1.1":            {connect11, subscribeFrame("s", "u.1", "r"), plain, special, empty},
		"MESSAGE 1.2":            {connectWith("accept-version:1.2\n"), subscribeFrame("s", "u.1", "r"), plain, special, empty},
		"SEND":                   {connect11, "SEND\ndestination:/topic/u.1\nreceipt:r\n\nhello\x00"},
		"ACK":                    {connect11, "ACK\nmessage-id:x\nsubscription:1\nreceipt:r\n\n\x00"},
		"DISCONNECT":             {connect11, "DISCONNECT\nreceipt:bye\n\n\x00", eof{}},
		"DISCONNECT, no receipt": {connect11, "DISCONNECT\n\n\x00", eof{}},
		"unknown command":        {connect11, "FOO\na:b\nreceipt:r\n\n\x00", eof{}},
		"bad content-length":     {connect11, "SEND\ncontent-length:x\n\n\x00", eof{}},
		"wrong content-length":   {connect11, "SEND\ncontent-length:2\ndestination:/topic/u.1\n\nabc\x00", eof{}},
		"no heart-beats":         {connectWith("accept-version:1.1\nheart-beat:100,0\n"), eof{}},
	} {
		t.Run(name, func(t *testing.T) {
			play := func(port int, publish func(m Message)) []string {
				c := newWireClient(t, port)
				var all []string
				count := 1
				for i, step := range script {
					switch step := step.(type) {
					case string:
						c.send(step)
						// What ends the connection is followed by eof, and by nothing else on the wire: ActiveMQ
						// would answer that too, if it comes in time.
						if i+1 == len(script) || !isEOF(script[i+1]) {
							all = append(all, c.answers()...)
						}
					case int:
						count = step
					case Message:
						publish(step)
						all = append(all, c.messages(count)...)
						all = append(all, c.answers()...)
						count = 1
					case eof:
						all = append(all, c.untilEOF()...)
					}
				}
				return all
			}
			want := play(judge.PlainPort(), func(m Message) {
				headers := make(map[string]string)
				for _, h := range m.Headers {
					headers[h.Name] = h.Value
				}
				publisher.Publish(t, "u.1", headers, m.Body)
			})
			got := play(ours.Port(), func(m Message) { ours.Publish("u.1", m.Headers, m.Body) })
			if !slices.Equal(got, want) {
				t.Errorf("\nours\n  %s\nActiveMQ\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
			}
		})
	}
}
