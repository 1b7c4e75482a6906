//go:build real

package playback

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	realdaemon "github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// TestHourInAMinute has the program play an hour of 35 MiB at --speed 60: that takes a minute, and less than 64 MiB of memory.
func TestHourInAMinute(t *testing.T) {
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
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, peak, _ := bytes.Cut(status, []byte("VmHWM:"))
	kib, err := strconv.Atoi(strings.Fields(string(peak))[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d notifications of an hour in %v, with %d MiB at most", messages, took.Round(100*time.Millisecond), kib>>10)
	if took < 59*time.Second { // a machine that is busy may take longer
		t.Errorf("an hour took %v", took)
	}
	if kib > 64<<10 {
		t.Errorf("it took %d MiB of memory", kib>>10)
	}
}
