//go:build real

package playback

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	realdaemon "github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// TestHourInAMinute has the program play an hour of 35 MiB at --speed 60: that takes a minute, and less than 64 MiB of memory.
func TestHourInAMinute(t *testing.T) {
	t.Parallel()
	file, messages := hour(t, 5)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	port, rest := program.FreePort(t), program.FreePort(t)
	p := program.Start(t, program.Options{Name: "hmcnotifyd", Path: realdaemon.Binary(t), Dir: t.TempDir(), Args: []string{
		"simulate", "--replay=" + file, "--speed=60", "--ca-out=" + ca, "--rest-port=" + strconv.Itoa(rest), "--stomp-port=" + strconv.Itoa(port),
	}})
	p.AwaitOutput(t, "stomp_port", within)
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	r, err := receiver.New(receiver.Options{
		Topics: []string{"u.1"}, Host: "127.0.0.1", Port: port, TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		Userid: hmcsim.DefaultUserid, Password: hmcsim.DefaultPassword,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*within)
	defer cancel()
	began := time.Now()
	if err := r.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	next := 0
	for n, err := range r.Notifications(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if got := n.Headers.Get("session-sequence-nr"); got != strconv.Itoa(next) {
			t.Fatalf("notification %s comes where %d should", got, next)
		}
		if next++; next == messages {
			break
		}
	}
	took := time.Since(began)
	kib := peak(p.PID())
	t.Logf("%d notifications of an hour in %v, with %d MiB at most", messages, took.Round(100*time.Millisecond), kib>>10)
	if took < 59*time.Second { // a machine that is busy may take longer
		t.Errorf("an hour took %v", took)
	}
	if kib == 0 || kib > 64<<10 {
		t.Errorf("it took %d MiB of memory", kib>>10)
	}
}

// peak is how much memory a process had at most, in KiB; 0: it has ended.
func peak(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, peak, _ := bytes.Cut(status, []byte("VmHWM:"))
	fields := strings.Fields(string(peak))
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.Atoi(fields[0])
	return kib
}

// TestFilesTakeLittleMemory has the program read files that somebody has made up, or that are as large as captures get: that takes
// less than 64 MiB.
func TestFilesTakeLittleMemory(t *testing.T) {
	t.Parallel()
	const limit = 64 << 10
	line := func(text string, n int) json.RawMessage { // that is nearly as long as one may be
		first, again, last := text[:strings.IndexByte(text, '(')], text[strings.IndexByte(text, '(')+1:strings.IndexByte(text, ')')], text[strings.IndexByte(text, ')')+1:]
		return json.RawMessage(first + strings.Repeat(again+",", n/(len(again)+1)) + again + last)
	}
	const long = capture.MaxLine - 1000
	kinds := soak.Count(t, "KINDS", 400_000, 1_500_000)
	frame := func(body json.RawMessage, headers ...[2]string) capture.Entry {
		return capture.Entry{At: 1, Kind: capture.KindFrame, Frame: &capture.Frame{
			Command: capture.Message, Headers: append(capture.Pairs{{"destination", "/topic/u.1"}, {"object-uri", "/api/partitions/1"}}, headers...),
			Body: capture.Content{JSON: body},
		}}
	}
	answer := func(operation, method, uri string, body json.RawMessage) capture.Entry {
		return capture.Entry{At: 1, Kind: capture.KindRequest, Request: &capture.Request{
			Operation: operation, Method: method, URI: uri, Status: 200, Answer: capture.Content{JSON: body},
		}}
	}
	for name, add := range map[string]func(write func(capture.Entry)){
		"many kinds": func(write func(capture.Entry)) {
			for i := range kinds {
				write(frame(nil, [2]string{"notification-type", "kind-" + strconv.Itoa(i)}))
			}
		},
		"large answers": largeAnswers(soak.Count(t, "LARGE_ANSWERS", 25, 60)),
		"long lines": func(write func(capture.Entry)) {
			for range soak.Count(t, "LONG_LINES", 2, 5) {
				write(frame(line(`{"os-messages":[({})]}`, long), [2]string{"notification-type", "os-message"}))
				write(frame(line(`{"os-messages":[(null)]}`, long), [2]string{"notification-type", "os-message"}))
				write(frame(line(`{"log-entries":[({})]}`, long), [2]string{"notification-type", "log-entry"}))
				write(frame(line(`{"hardware-messages":0,"change-reports":[({})]}`, long), [2]string{"notification-type", "property-change"}))
				write(answer("list-os-messages", http.MethodGet, "/api/partitions/1/operations/list-os-messages", line(`{"os-messages":[({})]}`, long)))
				write(answer("list-cpcs", http.MethodGet, "/api/cpcs", line(`{"cpcs":[({})]}`, long)))
				write(answer("get", http.MethodGet, "/api/cpcs/1", line(`[([])]`, long)))
				write(answer("submit-requests", http.MethodPost, "/api/services/aggregation/submit", line(`[({})]`, long)))
				write(answer("logon", http.MethodPost, "/api/sessions", line(`[({})]`, long)))
			}
		},
		"long names": func(write func(capture.Entry)) {
			for i := range 2_000 {
				name := strings.Repeat("x", 30_000) + strconv.Itoa(i)
				write(capture.Entry{At: 1, Kind: capture.KindFrame, Frame: &capture.Frame{
					Command: capture.Subscribe, Headers: capture.Pairs{{"destination", "/topic/" + name}},
				}})
				write(frame(json.RawMessage(`{"os-messages":[{"sequence-number":1,"is-held":true}]}`),
					[2]string{"object-uri", name}, [2]string{"notification-type", "os-message"}))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := made(t, add)
			for _, args := range [][]string{
				{"capture", "--inspect=" + file}, {"simulate", "--replay=" + file, "--rest-port=0", "--stomp-port=0", "--speed=1000"},
			} {
				t.Run(args[0], func(t *testing.T) {
					p := program.Start(t, program.Options{Name: "hmcnotifyd", Path: realdaemon.Binary(t), Dir: t.TempDir(), Args: args})
					most := 0
					offered := func() []string {
						return regexp.MustCompile(`(?s)rest_port: (\d+)\n.*stomp_port: (\d+)\n`).FindStringSubmatch(p.Output())
					}
					await(t, "the file is read", func() bool {
						most = max(most, peak(p.PID()))
						select {
						case <-p.Exited():
							return true
						default:
							return offered() != nil
						}
					})
					if ports := offered(); ports != nil && name != "many kinds" { // it would take its time to play
						ask(t, ports[1], ports[2])
						await(t, "it is played", func() bool {
							most = max(most, peak(p.PID()))
							return strings.Contains(p.Output(), "all of it was played")
						})
					}
					most = max(most, peak(p.PID()))
					t.Logf("%d MiB at most", most>>10)
					if most == 0 || most > limit {
						t.Errorf("it took %d MiB of memory", most>>10)
					}
					if args[0] == "simulate" && offered() == nil && !strings.Contains(p.Output(), "too much to play back") {
						t.Error(p.Output())
					}
				})
			}
		})
	}
}

func await(t *testing.T, what string, happened func() bool) {
	t.Helper()
	const long = 3 * within // much is read, by several programs at once
	for deadline := time.Now().Add(long); !happened(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", long, what)
		}
	}
}

// ask asks for all that there may be, and subscribes.
func ask(t *testing.T, rest, stomp string) {
	t.Helper()
	anyone := &tls.Config{InsecureSkipVerify: true} // it has made its certificate itself
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: anyone}}
	defer client.CloseIdleConnections()
	do := func(method, path, session, body string) []byte {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "https://127.0.0.1:"+rest+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Session", session)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	var session struct {
		ID string `json:"api-session"`
	}
	text := do(http.MethodPost, "/api/sessions", "", fmt.Sprintf(`{"userid":%q,"password":%q}`, hmcsim.DefaultUserid, hmcsim.DefaultPassword))
	if err := json.Unmarshal(text, &session); err != nil || session.ID == "" {
		t.Fatalf("%v: %s", err, text)
	}
	port, err := strconv.Atoi(stomp)
	if err != nil {
		t.Fatal(err)
	}
	r, err := receiver.New(receiver.Options{
		Topics: []string{"u.1"}, Host: "127.0.0.1", Port: port, TLS: anyone, Userid: hmcsim.DefaultUserid, Password: hmcsim.DefaultPassword,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for range r.Notifications(context.WithoutCancel(t.Context())) { // until it is closed
		}
	}()
	t.Cleanup(func() { _ = r.Close(); <-read })
	for i := range 60 {
		do(http.MethodGet, "/api/cpcs/"+strconv.Itoa(i), session.ID, "")
	}
	do(http.MethodGet, "/api/cpcs", session.ID, "")
	do(http.MethodGet, "/api/partitions/1/operations/list-os-messages", session.ID, "")
}
