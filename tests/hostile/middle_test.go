package hostile_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// middle is an HMC that has been taken over: it stands before a simulated one, with its certificate, and may change each
// answer and say anything on each link.
type middle struct {
	sim   *hmcsim.HMC
	stomp net.Listener
	rest  *httptest.Server
	// answer changes the answer to a request; nil: it stays. It may be called by several goroutines.
	answer func(r *http.Response, body []byte) []byte

	mu    sync.Mutex
	links map[*middleLink]bool
}

// middleLink is a link of the daemon to the HMC.
type middleLink struct {
	mu sync.Mutex // a frame is written as a whole
	// to the daemon
	conn net.Conn
	// subscriptions are what the daemon has subscribed to: destinations by id.
	subscriptions map[string]string
}

// newMiddle stands before the simulated HMC until the test ends.
func newMiddle(t *testing.T, sim *hmcsim.HMC) *middle {
	t.Helper()
	target, err := url.Parse(sim.URL())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	m := &middle{sim: sim, links: map[*middleLink]bool{}}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport, ErrorLog: quiet, ModifyResponse: m.modify,
	}
	m.rest = httptest.NewUnstartedServer(proxy)
	m.rest.TLS = &tls.Config{Certificates: []tls.Certificate{sim.ServerCertificate()}}
	m.rest.Config.ErrorLog = quiet
	m.rest.StartTLS()
	if m.stomp, err = tls.Listen("tcp", "127.0.0.1:0", m.rest.TLS.Clone()); err != nil {
		t.Fatal(err)
	}
	var links sync.WaitGroup
	links.Go(func() {
		for {
			conn, err := m.stomp.Accept()
			if err != nil {
				return
			}
			links.Go(func() { m.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = m.stomp.Close()
		m.cut()
		links.Wait()
		m.rest.Close()
		transport.CloseIdleConnections()
	})
	return m
}

// entry is the HMC in the list hmcs of a configuration.
func (m *middle) entry(t *testing.T, extra string) string {
	t.Helper()
	_, rest, _ := net.SplitHostPort(m.rest.Listener.Addr().String())
	_, stomp, _ := net.SplitHostPort(m.stomp.Addr().String())
	return strings.NewReplacer(
		"rest_port: "+strconv.Itoa(m.sim.RESTPort()), "rest_port: "+rest, "stomp_port: "+strconv.Itoa(m.sim.StompPort()), "stomp_port: "+stomp,
	).Replace(hmctest.Entry(t, m.sim, extra))
}

func (m *middle) modify(r *http.Response) error {
	if m.answer == nil {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	body = m.answer(r, body)
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return nil
}

// serve passes on what a link says, in both directions.
func (m *middle) serve(conn net.Conn) {
	defer conn.Close()
	dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	hmc, err := dialer.DialContext(context.Background(), "tcp", m.sim.StompAddr())
	if err != nil {
		return
	}
	defer hmc.Close()
	l := &middleLink{conn: conn, subscriptions: map[string]string{}}
	m.mu.Lock()
	m.links[l] = true
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.links, l)
		m.mu.Unlock()
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer hmc.Close()
		for r := bufio.NewReader(conn); ; {
			frame, err := readFrame(r)
			if err != nil {
				return
			}
			if bytes.HasPrefix(frame, []byte("SUBSCRIBE\n")) {
				l.mu.Lock()
				l.subscriptions[headerIn(frame, "id")] = headerIn(frame, "destination")
				l.mu.Unlock()
			}
			if _, err := hmc.Write(frame); err != nil {
				return
			}
		}
	}()
	for r := bufio.NewReader(hmc); ; {
		frame, err := readFrame(r)
		if err != nil || !l.say(frame) {
			break
		}
	}
	_ = conn.Close()
	_ = hmc.Close()
	<-ended
}

// say writes bytes to the daemon, between two frames.
func (l *middleLink) say(data []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.conn.Write(data)
	return err == nil
}

// say says something on each link that has subscriptions, and returns on how many.
func (m *middle) say(frame func(subscriptions map[string]string) []byte) (n int) {
	m.mu.Lock()
	var links []*middleLink
	for l := range m.links {
		links = append(links, l)
	}
	m.mu.Unlock()
	for _, l := range links {
		l.mu.Lock()
		subscriptions := maps.Clone(l.subscriptions)
		l.mu.Unlock()
		if len(subscriptions) > 0 && l.say(frame(subscriptions)) {
			n++
		}
	}
	return n
}

// cut ends all links.
func (m *middle) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for l := range m.links {
		_ = l.conn.Close()
	}
}

// readFrame reads a frame of a well-behaved peer as it stands, or an EOL.
func readFrame(r *bufio.Reader) ([]byte, error) {
	var frame []byte
	length := -1
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		frame = append(frame, line...)
		if text := strings.TrimRight(string(line), "\r\n"); text == "" {
			break
		} else if value, ok := strings.CutPrefix(text, "content-length:"); ok {
			if length, err = strconv.Atoi(value); err != nil {
				return nil, err
			}
		}
	}
	if len(frame) <= 2 {
		return frame, nil // a heart-beat
	}
	if length >= 0 {
		body := make([]byte, length+1)
		_, err := io.ReadFull(r, body)
		return append(frame, body...), err
	}
	body, err := r.ReadBytes(0)
	return append(frame, body...), err
}

// headerIn returns the value of a header of a frame as it stands.
func headerIn(frame []byte, name string) string {
	_, rest, _ := bytes.Cut(frame, []byte("\n"+name+":"))
	value, _, _ := bytes.Cut(rest, []byte("\n"))
	return string(value)
}
