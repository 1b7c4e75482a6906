package activemq

import (
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3"
	"github.com/go-stomp/stomp/v3/frame"
)

// Publisher sends notifications to the broker as the HMC's own program does:
// text messages, which subscribers get without content-length, with the
// notification's fields as headers. It stands on go-stomp's client, which
// shares no connection code with this project's receiver.
type Publisher struct{ conn *stomp.Conn }

// quiet keeps go-stomp from logging every connection that a test breaks.
type quiet struct{}

func (quiet) Debugf(string, ...any)   {}
func (quiet) Infof(string, ...any)    {}
func (quiet) Warningf(string, ...any) {}
func (quiet) Errorf(string, ...any)   {}
func (quiet) Debug(string)            {}
func (quiet) Info(string)             {}
func (quiet) Warning(string)          {}
func (quiet) Error(string)            {}

// Publisher connects a publisher. It is closed with the test and by Stop and
// Kill; after a new Start a new one is needed.
func (b *Broker) Publisher(tb testing.TB) *Publisher {
	tb.Helper()
	dialer := net.Dialer{Timeout: 10 * time.Second}
	raw, err := dialer.DialContext(tb.Context(), "tcp", net.JoinHostPort(b.opts.Host, strconv.Itoa(b.plainPort)))
	if err != nil {
		tb.Fatal(err)
	}
	conn, err := stomp.Connect(raw,
		stomp.ConnOpt.Login(b.publisher.Name, b.publisher.Password),
		stomp.ConnOpt.HeartBeat(0, 0),
		stomp.ConnOpt.RcvReceiptTimeout(10*time.Second),
		stomp.ConnOpt.Logger(quiet{}))
	if err != nil {
		_ = raw.Close()
		tb.Fatalf("activemq: publisher: %v", err)
	}
	p := &Publisher{conn: conn}
	b.publishing = append(b.publishing, p)
	tb.Cleanup(p.close)
	return p
}

// Publish sends one notification to a topic named without "/topic/", and
// returns when the broker has it. A nil body is sent as an empty one.
func (p *Publisher) Publish(tb testing.TB, topic string, headers map[string]string, body []byte) {
	tb.Helper()
	if err := p.Send(topic, headers, body); err != nil {
		tb.Fatalf("activemq: publish to %s: %v", topic, err)
	}
}

// Send is Publish for a broker that may be gone: then it fails within seconds,
// and the broker may have the notification or not.
func (p *Publisher) Send(topic string, headers map[string]string, body []byte) error {
	opts := make([]func(*frame.Frame) error, 0, 2+len(headers))
	opts = append(opts, stomp.SendOpt.NoContentLength, stomp.SendOpt.Receipt)
	for name, value := range headers {
		opts = append(opts, stomp.SendOpt.Header(name, value))
	}
	return p.conn.Send("/topic/"+topic, "", body, opts...)
}

func (p *Publisher) close() {
	// The link may be gone already, which is no error here.
	_ = p.conn.MustDisconnect()
}

func (b *Broker) closePublishers() {
	for _, p := range b.publishing {
		p.close()
	}
	b.publishing = nil
}
