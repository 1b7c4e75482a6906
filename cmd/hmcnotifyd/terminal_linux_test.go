package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// What top and tail show where a terminal is, and where none is.
func TestTerminal(t *testing.T) {
	t.Parallel()
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == statusPath {
			_ = json.NewEncoder(w).Encode(status.Status{Started: time.Now(), HMCs: []status.HMCStatus{{Name: "hmc-east", State: status.StateAuthFailed}}})
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "id: 1\ndata: {\"severity\":\"critical\",\"summary\":\""+strings.Repeat("long ", 30)+"\"}\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(daemon.Close)
	term := newTerminal(t)
	sees := func(text string) func() bool {
		return func() bool { return strings.Contains(term.out.String(), text) }
	}
	env := []string{"TERM=xterm", "NO_COLOR="}
	p := startWriting(t, term.slave, term.slave, env, "tail", "--url="+daemon.URL)
	eventually(t, "it says that it listens", sees("listening to "+daemon.URL))
	eventually(t, "a critical event is red", sees("\x1b[1;31m"))
	eventually(t, "it goes on below itself", sees("\n"+strings.Repeat(" ", 70)))
	p.signal(os.Interrupt)
	if status := p.wait(); status != exitDone {
		t.Errorf("tail: status %d", status)
	}
	p = startWriting(t, term.slave, term.slave, env, "top", "--url="+daemon.URL)
	eventually(t, "the screen is there", sees("auth failed"))
	p.signal(os.Interrupt)
	if status := p.wait(); status != exitDone {
		t.Errorf("top: status %d", status)
	}
	eventually(t, "the terminal is as it was", func() bool { // what was written last is read when the program has ended
		out := term.out.String()
		return strings.Contains(out, "\x1b[?1049h") && strings.LastIndex(out, "\x1b[?1049l") > strings.LastIndex(out, "\x1b[?1049h")
	})

	code, stdout, stderr := call("top", "--url="+daemon.URL)
	if code != exitDone || stderr != "" || !strings.Contains(stdout, "hmc-east  auth failed") || strings.Contains(stdout, "\x1b") {
		t.Errorf("%d %s\n%s", code, stdout, stderr)
	}
	for _, wrong := range []string{"--interval=1ms", "--interval=soon"} {
		if code, _, stderr := call("top", wrong); code != exitUsage || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: %d %s", wrong, code, stderr)
		}
	}
}
