package terminal

import (
	"bytes"
	"testing"
	"time"
)

// The line of progress is for terminals, and for what takes a while.
func TestProgress(t *testing.T) {
	var out bytes.Buffer
	p := Progress{out: &out, start: time.Now()}
	p.Show(true, "no terminal")
	p.terminal = true
	p.Show(false, "too early")
	p.Clear()
	if out.Len() > 0 {
		t.Errorf("%q", out.String())
	}
	p.start = time.Now().Add(-2 * progressAfter)
	p.Show(false, "1 of 2")
	p.Show(false, "too often")
	p.Show(true, "now")
	p.Clear()
	p.Clear()
	if got := out.String(); got != "\r1 of 2\x1b[K\rnow\x1b[K\r\x1b[K" {
		t.Errorf("%q", got)
	}
}
