package web_test

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

const evil = `"><script>alert(1)</script><img src=x onerror=alert(1)>'`

// fullStatus has something of everything that the page shows, each text of it hostile.
func fullStatus(now time.Time) status.Status {
	at := func(ago time.Duration) *time.Time {
		t := now.Add(-ago).UTC()
		return &t
	}
	perMinute := make([]int64, 60)
	perMinute[58], perMinute[59], perMinute[3] = 1234, 5, 1
	trouble := []status.Trouble{{Severity: event.SeverityCritical, What: "It is down: " + evil, Do: "Look at it " + evil, Runbook: "HmcnotifydLinkDown", Since: at(time.Hour)}}
	return status.Status{
		Started: *at(50 * time.Hour),
		Reasons: []status.Reason{{HMC: "east" + evil, Reason: "down"}},
		HMCs: []status.HMCStatus{
			{
				Name: "east" + evil, State: status.StateAuthFailed, Since: *at(90*time.Minute + 30*time.Second), Host: "h" + evil, NextAttempt: at(-time.Hour), Reconnects: 1234567,
				Topics: []status.TopicStatus{{Name: "t" + evil, Type: "object", Problem: "p" + evil}}, Problems: []status.Problem{{Kind: status.ProblemTopic, Text: "x" + evil}},
				LastFrame: at(time.Second), LastNotification: at(26 * time.Hour), BlindSince: at(time.Minute), Gaps: 2, Missed: 3,
				OSMessages: &status.OSMessageStatus{Followed: 1, NotFollowed: map[string]string{"P1" + evil: "q" + evil}},
				LastGap:    &status.GapStatus{From: *at(2 * time.Hour), To: *at(time.Hour), Causes: []string{"c" + evil}, Missed: map[string]int{"job" + evil: 3}, Recovered: map[string]int{"audit": 4}, MayBeMissed: []string{"m" + evil}},
				Outages: []status.Outage{
					{From: *at(49 * time.Hour), To: at(48 * time.Hour), Cause: "first " + evil, Attempts: 3},
					{From: *at(time.Minute), Cause: "second " + evil, Attempts: 1},
				},
				CertificateNotAfter: at(-20*24*time.Hour - time.Minute), NotificationsPerMinute: perMinute, Troubles: trouble,
				Violations: []status.Violation{{Assumption: "a" + evil, Question: "Is it so? " + evil, Assumed: "it is" + evil, Seen: "it is not (3 times)" + evil}},
			},
			{Name: "west", State: status.StateConnected, Connected: true, Since: *at(time.Hour), CertificateNotAfter: at(time.Hour), NotificationsPerMinute: make([]int64, 60)},
		},
		Sinks: []status.SinkStatus{
			{Name: "ops" + evil, Kind: "webhook", Waiting: status.Waiting{QueueEvents: 12, QueueBytes: 5 << 20, OldestEventAgeSeconds: 3700}, Delivered: 10, Filtered: 4, Dropped: 2, Stuck: true, FailingSince: at(time.Minute), FailedAttempts: 5, LastError: "503 " + evil, LastErrorTime: at(0), DeadLetters: 9, DeliveredPerMinute: perMinute, Troubles: trouble},
			{Name: "journal", Kind: "log", LastError: "earlier " + evil, LastErrorTime: at(time.Hour), LastSuccess: at(time.Second), DeliveredPerMinute: make([]int64, 60)},
		},
		Storage:  status.StorageStatus{Path: "/data" + evil, Bytes: 3 << 30, MaxBytes: 10 << 30},
		Troubles: []status.Trouble{{Severity: event.SeverityWarning, What: "Something else " + evil}},
		Held:     []status.HeldMessage{{Name: "P1" + evil, CPC: "CPC1" + evil, Reply: "R 17,", Text: "Reply Y or N " + evil, Since: *at(time.Minute)}},
	}
}

func units(now time.Time, n int) []status.Unit {
	list := []status.Unit{
		{Group: "g", Class: "partition", Name: "PART2", CPC: "CPC1", Status: "stopped", Severity: event.SeverityWarning, Since: now.Add(-time.Hour), Exact: true, Current: true},
		{Group: "g", Class: "partition", Name: "PART1" + evil, CPC: "CPC1", Status: "active" + evil, Severity: event.SeverityInfo, Since: now.Add(-time.Minute), Current: true},
		{Group: "g", Class: "cpc", Name: "CPC1", CPC: "CPC1", Status: "", Severity: event.SeverityInfo},
		{Group: "a", Class: "logical-partition", Name: "LP1", CPC: "M90", Status: "exceptions", Severity: event.SeverityCritical, Since: now},
	}
	for i := range n {
		list = append(list, status.Unit{Group: "g", Class: "partition", Name: fmt.Sprintf("X%05d", i), CPC: "CPC9", Status: "active", Severity: event.SeverityInfo})
	}
	return list
}

// pageOf serves the page of a status.
func pageOf(t *testing.T, more int) *httptest.Server {
	t.Helper()
	now := time.Now()
	s := httptest.NewServer(web.NewHandler(web.Options{
		Status: func() status.Status { return fullStatus(now) },
		Config: func() web.ConfigStatus {
			return web.ConfigStatus{File: "hmcnotifyd.yaml" + evil, Error: "hmcnotifyd.yaml:3: " + evil, LastReload: now}
		},
		Reload: func() error { return nil }, Units: func() []status.Unit { return units(now, more) },
		Live:     func() (web.LiveReader, error) { return newScript(), nil },
		Gatherer: prometheus.NewRegistry(), Build: web.Build{Version: "1.2.3" + evil},
	}))
	t.Cleanup(s.Close)
	return s
}

func fetch(t *testing.T, url string) (string, http.Header) {
	t.Helper()
	resp, in := get(t.Context(), t, url)
	body, err := io.ReadAll(in)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d, %v\n%s", url, resp.StatusCode, err, body)
	}
	return string(body), resp.Header
}

// tokens ranges over the elements and texts of a page. encoding/xml reads HTML that is written with
// care.
func tokens(t *testing.T, page string) iter.Seq[xml.Token] {
	t.Helper()
	return func(yield func(xml.Token) bool) {
		d := xml.NewDecoder(strings.NewReader(page))
		d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !yield(token) {
				return
			}
		}
	}
}

// text is what a person reads of a page.
func text(t *testing.T, page string) string {
	t.Helper()
	var b strings.Builder
	for token := range tokens(t, page) {
		if data, ok := token.(xml.CharData); ok {
			b.Write(data)
			b.WriteByte(' ')
		}
	}
	return strings.Join(strings.Fields(strings.ReplaceAll(b.String(), "\u202f", " ")), " ")
}

func TestPageSaysEverything(t *testing.T) {
	page, _ := fetch(t, pageOf(t, 0).URL+"/")
	got := text(t, page)
	for _, want := range []string{
		"3 things need attention", "1 of 2 HMCs connected and subscribed, 1 of 2 sinks accepting events.",
		"auth failed", "for 1 h 30 min", "1 234 567", "1 d 2 h ago", "3, in 2 gaps", "20 days left", "1 234 /min", "peak 1 234 · 1 240 notifications in 60 min", "no notifications in 60 min",
		"0 of 1 topic subscribed, OS messages of 1 partition", "Not followed now:", "2 outages, the last still lasts", "1 h , 3 attempts failed", "Last gap: 1 h, until", "4 of audit fetched afterwards", "May be missing: m",
		"stuck", "5 attempts failed", "12 · 5.0 MiB", "1 h 1 min", "Dead letters 9", "Dropped 2", "Last error 1 h",
		"3.0 GiB of 10.0 GiB", "2 d 2 h", "The configuration file has a mistake", "Something else",
		"unknown 1", "at least 1 min", "when seen last", "4 of 4.", "2 of 4 CPCs and partitions in trouble", "1 message waits for an answer", "R 17,", "expired 1 h ago", "What to look at",
		"Not as HMCs were assumed to be, in 1 point", "Is it so?", "Seen: it is not (3 times)", "Please report it",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q", want)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}

// Whatever a text holds, it stays a text: the page's elements and addresses are those of its
// template.
func TestPageHasNoMarkupFromTexts(t *testing.T) {
	page, header := fetch(t, pageOf(t, 0).URL+"/?q="+url.QueryEscape(evil)+"&status="+url.QueryEscape(evil))
	addresses := regexp.MustCompile(`^(#|\?|assets/|metrics$|api/v1/|-/|https://github\.com/hmcnotifyd/)`)
	scripts := 0
	for token := range tokens(t, page) {
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		if e.Name.Local == "script" {
			scripts++
		}
		for _, a := range e.Attr {
			name, value := a.Name.Local, a.Value
			if strings.HasPrefix(name, "on") || name == "style" {
				t.Errorf("attribute %s of %s", name, e.Name.Local)
			}
			if (name == "href" || name == "src" || name == "action") && !addresses.MatchString(value) {
				t.Errorf("%s=%q", name, value)
			}
		}
	}
	if scripts != 1 {
		t.Errorf("%d scripts", scripts)
	}
	policy := header.Get("Content-Security-Policy")
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") || !strings.Contains(policy, "default-src 'none'") || header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", header)
	}
}

func TestPageAssets(t *testing.T) {
	s := pageOf(t, 0)
	page, _ := fetch(t, s.URL+"/")
	found := regexp.MustCompile(`"(assets/[^"]+)"`).FindAllStringSubmatch(page, -1)
	kinds := map[string]string{"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
	for _, m := range found {
		name, version, _ := strings.Cut(m[1], "?v=")
		_, header := fetch(t, s.URL+"/"+m[1])
		if version == "" || !strings.HasPrefix(header.Get("Content-Type"), kinds[name[strings.LastIndexByte(name, '.')+1:]]) || !strings.Contains(header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %v", m[1], header)
		}
	}
	if len(found) != 4 {
		t.Errorf("%v", found)
	}
}

// What is searched for is bounded, however long the address is: the words are compared with each of
// the units, and stand in each of the page's links.
func TestEstateSearchIsBounded(t *testing.T) {
	s := pageOf(t, 1000)
	plain, _ := fetch(t, s.URL)
	for _, long := range []string{strings.Repeat("x ", 10_000), strings.Repeat("part1 ", 3000), "x" + strings.Repeat("ü", 2000)} {
		query := url.Values{"q": {long}, "status": {long}}.Encode()
		if len(query) > web.MaxHeader { // these are refused as a whole
			query = query[:web.MaxHeader-1000]
		}
		page, _ := fetch(t, s.URL+"/?"+query)
		value := regexp.MustCompile(`name="q" type="search" value="([^"]*)"`).FindStringSubmatch(page)
		if value == nil || len(value[1]) > 200 || value[1] == "" || !utf8.ValidString(page) {
			t.Errorf("%.6s: searched for %q", long, value)
		}
		if len(page) > 2*len(plain) {
			t.Errorf("%.6s: a page of %d bytes, without a search it has %d", long, len(page), len(plain))
		}
	}
}

func TestEstateSearch(t *testing.T) {
	s := pageOf(t, 1000)
	row := regexp.MustCompile(`<tr class="(?:cpc|partition|logical-partition)[^"]*"><th[^>]*>([^<&]*)`)
	for query, test := range map[string]struct {
		n           int
		first, says string
	}{
		"":                         {200, "LP1", "200 of 1 004."},
		"?all=1":                   {1004, "LP1", "1 004 of 1 004."},
		"?q=part1":                 {1, "PART1", "1 of 1 that fit, of 1 004."},
		"?q=cpc1":                  {3, "CPC1", "3 of 3 that fit, of 1 004."},
		"?q=CPC1+stopped":          {1, "PART2", "1 of 1 that fit"},
		"?q=lpar":                  {1, "LP1", "1 of 1 that fit"},
		"?status=active":           {200, "X00000", "200 of 1 000 that fit, of 1 004."},
		"?status=unknown":          {1, "CPC1", "1 of 1 that fit"},
		"?status=active&all=1":     {1000, "X00000", "1 000 of 1 000 that fit"},
		"?q=x0001&status=active":   {10, "X00010", "10 of 10 that fit"},
		"?q=nothing+has+this":      {0, "", "None of 1 004 fits."},
		"?q=x00010&status=stopped": {0, "", "None of 1 004 fits."},
	} {
		t.Run(query, func(t *testing.T) {
			page, _ := fetch(t, s.URL+"/"+query)
			rows := row.FindAllStringSubmatch(page, -1)
			if len(rows) != test.n || (test.n > 0 && rows[0][1] != test.first) || !strings.Contains(text(t, page), test.says) {
				t.Errorf("%d rows, %.1q", len(rows), rows)
			}
		})
	}
}

// site has so many HMCs and sinks, of which some are sick, in no order.
func manyHMCs(n, sick int) status.Status {
	s := status.Status{Ready: sick == 0, Started: time.Now()}
	for i := range n {
		at := time.Now().Add(-time.Duration(i) * time.Minute)
		h := status.HMCStatus{Name: fmt.Sprintf("hmc%d", n-i), State: status.StateConnected, Connected: true, Since: at, LastNotification: &at, NotificationsPerMinute: make([]int64, 60)}
		k := status.SinkStatus{Name: fmt.Sprintf("sink%d", n-i), Kind: "webhook", DeliveredPerMinute: make([]int64, 60)}
		if i < sick {
			h.Connected, h.State = false, status.StateDisconnected
			h.Troubles = []status.Trouble{{Severity: event.SeverityCritical, What: fmt.Sprintf("The link is disconnected: hmc%d.example.com: dial tcp 10.1.0.%d:6794: connect: connection refused.", n-i, n-i), Do: "Look.", Since: &at}}
			h.Host = fmt.Sprintf("hmc%d.example.com", n-i)
		}
		s.HMCs, s.Sinks = append(s.HMCs, h), append(s.Sinks, k)
	}
	return s
}

func pageOfStatus(t *testing.T, s status.Status) string {
	t.Helper()
	server := httptest.NewServer(web.NewHandler(web.Options{
		Status: func() status.Status { return s }, Config: func() web.ConfigStatus { return web.ConfigStatus{LastReloadSuccessful: true} },
		Units: func() []status.Unit { return nil }, Gatherer: prometheus.NewRegistry(), Build: web.Build{Version: "1.2.3"},
	}))
	t.Cleanup(server.Close)
	page, _ := fetch(t, server.URL+"/")
	return page
}

// What /api/v1/status lists as troubles, and hmcnotifyd top with it, has the mistake of the configuration file too.
func TestMistakeOfTheConfigurationIsATrouble(t *testing.T) {
	for _, test := range []struct {
		config web.ConfigStatus
		want   int
	}{
		{web.ConfigStatus{LastReloadSuccessful: true}, 1},
		{web.ConfigStatus{File: "h.yaml", Error: "h.yaml:3: no"}, 2},
	} {
		server := httptest.NewServer(web.NewHandler(web.Options{
			Status: func() status.Status { return status.Status{Troubles: []status.Trouble{{What: "Another."}}} },
			Config: func() web.ConfigStatus { return test.config }, Gatherer: prometheus.NewRegistry(),
		}))
		t.Cleanup(server.Close)
		body, _ := fetch(t, server.URL+"/api/v1/status")
		var is status.Status
		if err := json.Unmarshal([]byte(body), &is); err != nil {
			t.Fatal(err)
		}
		if len(is.Troubles) != test.want || test.want > 1 && (!strings.Contains(is.Troubles[1].What, "h.yaml:3: no") ||
			is.Troubles[1].Command != "hmcnotifyd check-config h.yaml") {
			t.Errorf("%+v: %+v", test.config, is.Troubles)
		}
	}
}

// Few HMCs are a card each, of many only those that are sick, and of those not more than a person looks at; what all of them say
// stands once. They come as people count.
func TestPageOfMany(t *testing.T) {
	card, row := regexp.MustCompile(`<article class="card"[^>]* data-hmc="([^"]*)"`), regexp.MustCompile(`<li data-key="\d+" data-hmc="([^"]*)"`)
	for _, test := range []struct {
		n, sick, cards, rows int
		firstCard, firstRow  string
		says                 string
	}{
		{1, 0, 1, 0, "hmc1", "", "All HMCs and sinks work"},
		{3, 1, 3, 0, "hmc3", "", "critical The link is disconnected: hmc3.example.com: dial tcp 10.1.0.3:6794: connect: connection refused."},
		{30, 0, 0, 30, "", "hmc1", "30 of 30 HMCs connected"},
		{30, 2, 2, 28, "hmc29", "hmc1", "HMC hmc29 HMC hmc30 critical The link is disconnected: …: dial tcp …: connect: connection refused. Look."},
		{200, 200, 24, 176, "hmc1", "hmc25", "HMC hmc12 and 188 more"},
	} {
		t.Run(fmt.Sprint(test.n, test.sick), func(t *testing.T) {
			page := pageOfStatus(t, manyHMCs(test.n, test.sick))
			cards, rows := card.FindAllStringSubmatch(page, -1), row.FindAllStringSubmatch(page, -1)
			if len(cards) != test.cards || len(rows) != test.rows || (test.cards > 0 && cards[0][1] != test.firstCard) || (test.rows > 0 && rows[0][1] != test.firstRow) {
				t.Errorf("%d cards, %d rows: %.2q %.2q", len(cards), len(rows), cards, rows)
			}
			got := text(t, page)
			if n := strings.Count(got, "The link is disconnected: "); n > 1 || (n == 1) != (test.sick > 0) {
				t.Errorf("the trouble stands %d times", n)
			}
			if !strings.Contains(got, test.says) {
				t.Errorf("no %q in %.600s", test.says, got)
			}
			if !strings.Contains(page, "/hmcnotifyd/blob/v1.2.3/docs/") || strings.Contains(page, "/blob/main/") {
				t.Error("the documents are not those of this version")
			}
			if len(page) > 1<<20 {
				t.Errorf("%d bytes", len(page))
			}
		})
	}
}

// However many things are wrong, the HMCs and sinks are not far below.
func TestPageOfManyTroubles(t *testing.T) {
	s := manyHMCs(200, 200)
	for i := range s.HMCs {
		s.HMCs[i].Troubles[0].What = fmt.Sprintf("The certificate expired %d days ago.", i+1)
	}
	got := text(t, pageOfStatus(t, s))
	if n := strings.Count(got, "The certificate expired "); n != 24 || !strings.Contains(got, "200 things need attention") || !strings.Contains(got, "And 176 more: see below") {
		t.Errorf("%d troubles: %.600s", n, got)
	}
}

func TestEstateInTrouble(t *testing.T) {
	page, _ := fetch(t, pageOf(t, 20).URL+"/?trouble=1")
	if got := text(t, page); !strings.Contains(got, "2 of 2 that fit, of 24.") || strings.Contains(got, "X00001") {
		t.Errorf("%s", got)
	}
}

// The page of a daemon that stands by says so, and who leads.
func TestPageOfAStandby(t *testing.T) {
	t.Parallel()
	for leader, want := range map[string]string{
		"m1.example.com": "The daemon on m1.example.com leads",
		"":               "It is not known yet which daemon leads",
	} {
		s := httptest.NewServer(web.NewHandler(web.Options{
			Status: func() status.Status {
				return status.Status{Ready: true, Role: status.RoleStandby, Leader: leader, Started: time.Now()}
			},
			Config: func() web.ConfigStatus { return web.ConfigStatus{} }, Gatherer: prometheus.NewRegistry(),
		}))
		defer s.Close()
		for path, text := range map[string]string{"/": want, "/api/v1/status": `"role": "standby"`, "/-/ready": `"role": "standby"`} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), text) {
				t.Errorf("%s: %d %v, without %q:\n%s", path, resp.StatusCode, err, text, body)
			}
			if path == "/" && !strings.Contains(string(body), "Standing by") {
				t.Error("the headline does not say that it stands by")
			}
		}
	}
}
