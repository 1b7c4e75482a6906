package ha

import (
	"bytes"
	"net"
	"os"
	"regexp"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

// A cluster that is away at the start is said once, not at each attempt.
func TestAClusterThatIsAwayIsSaidOnce(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	var out bytes.Buffer
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), zapcore.AddSync(&out), zapcore.WarnLevel))
	_, err = connect(t.Context(), &config.JetStream{URLs: []string{"nats://" + l.Addr().String()}, Name: "x", Replicas: 1}, "0", log,
		2*againAfter+againAfter/2)
	if lines := bytes.Count(out.Bytes(), []byte("\n")); err == nil || lines != 1 {
		t.Errorf("%d lines: %v", lines, err)
	}
}

// systemd neither ends a daemon that waits for its cluster, nor gives it up after some attempts.
func TestSystemdWaitsForTheCluster(t *testing.T) {
	unit, err := os.ReadFile("../../deploy/systemd/hmcnotifyd.service")
	if err != nil {
		t.Fatal(err)
	}
	of := func(key string) time.Duration {
		value := regexp.MustCompile(`(?m)^` + key + `=(\d+)(s|min)?$`).FindSubmatch(unit)
		if value == nil {
			t.Fatal("the unit has no " + key)
		}
		d, err := time.ParseDuration(string(value[1]) + map[string]string{"": "ns", "s": "s", "min": "m"}[string(value[2])])
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if start := of("TimeoutStartSec"); start <= startTimeout+againAfter {
		t.Errorf("systemd ends a start after %s, which may take %s", start, startTimeout)
	}
	if each := of("StartLimitIntervalSec") / of("StartLimitBurst"); each >= startTimeout+of("RestartSec") {
		t.Errorf("systemd gives up where a start takes less than %s", each)
	}
}
