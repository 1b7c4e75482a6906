package web_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

func TestReplayPath(t *testing.T) {
	s := startWithBridge(t)
	for query, want := range map[string]struct {
		status int
		body   string
	}{
		"":                                  {400, "since: is required"},
		"?since=":                           {400, "since: must not be empty"},
		"?since=yesterday":                  {400, "is neither a duration"},
		"?since=1h&since=2h":                {400, "since: may be given once"},
		"?since=1h&until=2h":                {400, "until: is not after since"},
		"?since=1h&sink=ops":                {400, `unknown parameter \"sink\"`},
		"?since=1h&type=(":                  {400, "type: "},
		"?since=1h&dry_run=maybe":           {400, "dry_run: "},
		"?since=1h&hmc=" + tooLong():        {400, "hmc: at most 200 bytes"},
		"?since=1h" + tooMany():             {400, "type: at most 10 values"},
		"?since=1h&until=1m&type=a&hmc=b.*": {404, "there is no such sink"},
		"?since=2026-11-20T10:00:00Z":       {404, "there is no such sink"},
		"?since=1h&%zz":                     {400, "malformed"},
	} {
		if resp, body := s.request(t, http.MethodPost, "/api/v1/sinks/nobody/replay"+query); resp.StatusCode != want.status || !strings.Contains(body, want.body) {
			t.Errorf("%s: %d %s", query, resp.StatusCode, body)
		}
		time.Sleep(110 * time.Millisecond) // no more than ten in a second are served
	}
	q, err := web.ParseReplay("since=2026-11-20T10:00:00Z&until=2026-11-20T11:00:00Z&type=status-.*&type=os-message&hmc=east&dry_run=true")
	if err != nil || q.Until.Sub(q.Since) != time.Hour || !q.Type.Match("os-message") || q.Type.Match("job-completion") || !q.HMC.Match("east") || !q.DryRun {
		t.Errorf("%+v, %v", q, err)
	}
}

func tooLong() string { return strings.Repeat("x", 201) }

func tooMany() string { return "&" + url.Values{"type": strings.Split("abcdefghijk", "")}.Encode() }

func TestLiveFilterFromWhereOn(t *testing.T) {
	t.Parallel()
	f, err := web.ParseLiveFilter("since=2026-11-20T10:00:00Z&last=50")
	if err != nil || f.Since.Unix() != 1795168800 || f.Last != 50 {
		t.Errorf("%+v, %v", f, err)
	}
	for _, bad := range []string{"since=yesterday", "last=0", "last=1001", "last=x", "last=1&last=2"} {
		if _, err := web.ParseLiveFilter(bad); err == nil || !strings.HasPrefix(err.Error(), bad[:4]) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
