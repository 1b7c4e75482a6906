package datadir

import (
	"path/filepath"
	"testing"
)

func TestAvailableOfNothing(t *testing.T) {
	t.Parallel()
	if got := Available(filepath.Join(t.TempDir(), "missing")); got != -1 {
		t.Errorf("%d bytes are available where there is nothing", got)
	}
}
