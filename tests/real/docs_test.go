//go:build real

package realtest_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
)

// TestReadmeConfiguration checks the configuration that a new user copies.
func TestReadmeConfiguration(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(daemon.Root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("README.md shows no configuration")
	}
	// In a list the block is indented; that is no part of it.
	text := regexp.MustCompile(`(?m)^   `).ReplaceAll(block[1], nil)
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"hmcnotifyd.yaml": text, "hmc-ca.pem": certs.NewAuthority(t).PEM(), "hmc-east.password": []byte("secret\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, status := daemon.Run(t, 5*time.Minute, "check-config", filepath.Join(dir, "hmcnotifyd.yaml")); status != 0 {
		t.Errorf("check-config: exit status %d\n%s", status, out)
	}
}
