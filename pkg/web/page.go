package web

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/maruel/natural"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/units"
)

//go:embed assets page.html
var files embed.FS

const (
	// unitsShown is how many CPCs and partitions the page lists before somebody asks for all.
	unitsShown = 200
	// troublesShown is how many troubles stand at the head of the page.
	troublesShown = 24
	// listShown bounds lists within a card: a person needs to see what kind of thing is wrong,
	// not ten thousand of it.
	listShown = 12
	// rowsFrom is how many that work are a row each instead of a card, and cardsShown how many
	// cards there are at most.
	rowsFrom   = 4
	cardsShown = 24
	// sparksShown is how many rows may have a chart: a page is sent again every two seconds.
	sparksShown = 50
)

// docsOf is where the documentation of a version is.
func docsOf(version string) string {
	at := "v" + version
	if version == "" || strings.ContainsAny(version, "-+ ") { // not released
		at = "main"
	}
	return "https://github.com/hmcnotifyd/hmcnotifyd/blob/" + url.PathEscape(at) + "/docs/"
}

// policy lets the page have its own assets and talk to its own daemon, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// assets serves the files that the page needs. Their addresses change with their content, so that a
// browser may keep them.
func (h handler) assets(mux *http.ServeMux) {
	entries, err := fs.ReadDir(files, "assets")
	if err != nil {
		panic(err) // they are part of the program
	}
	kinds := map[string]string{
		".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
	}
	for _, e := range entries {
		content, err := files.ReadFile("assets/" + e.Name())
		if err != nil {
			panic(err)
		}
		kind := kinds[e.Name()[strings.LastIndexByte(e.Name(), '.'):]]
		mux.HandleFunc("GET /assets/"+e.Name(), func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
		})
	}
}

// asset returns the address of one of the page's files, relative to the page: a proxy may serve it
// below another path.
func asset(name string) (string, error) {
	content, err := files.ReadFile("assets/" + name)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	return "assets/" + name + "?v=" + hex.EncodeToString(sum[:4]), nil
}

// page is what the template shows.
type page struct {
	Build
	status.Status
	Config ConfigStatus
	Now    time.Time
	Docs   string
	Types  []string
	// all troubles, the worst first; those of which several say the same once
	Wrong     []wrong
	HMCParts  parts[status.HMCStatus]
	SinkParts parts[status.SinkStatus]
	Estate    estateView
	Live      bool
}

// parts are HMCs or sinks as they are shown: as a card those that are sick, or all where they are
// few.
type parts[T any] struct {
	Cards, Rows []numbered[T]
	// the rows have charts
	Sparks bool
}

// numbered is an HMC or sink with its number, which its address on the page has.
type numbered[T any] struct {
	Number int
	Is     T
}

// newParts sorts HMCs or sinks as people count, those that are sick first.
func newParts[T any](all []T, name func(*T) string, sick func(*T) bool) (p parts[T]) {
	list := make([]numbered[T], len(all))
	for i := range all {
		list[i] = numbered[T]{i, all[i]}
	}
	order := func(n *numbered[T]) int {
		if sick(&n.Is) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(list, func(a, b numbered[T]) int {
		return cmp.Or(order(&a)-order(&b), natural.Compare(name(&a.Is), name(&b.Is)))
	})
	cards := 0
	for cards < len(list) && order(&list[cards]) == 0 {
		cards++
	}
	if len(list)-cards < rowsFrom {
		cards = len(list)
	}
	cards = min(cards, cardsShown)
	p.Cards, p.Rows = list[:cards], list[cards:]
	p.Sparks = len(p.Rows) <= sparksShown
	return p
}

// wrong is a trouble with what it is of.
type wrong struct {
	Of []place
	status.Trouble
	// of Trouble
	common string
}

// place is a part of the daemon and where the page shows it.
type place struct {
	// "HMC", "Sink" or ""
	Kind, Name, Anchor string
}

// Shown are the first places, and More how many there are besides.
func (w *wrong) Shown() []place { return w.Of[:min(len(w.Of), listShown)] }
func (w *wrong) More() int      { return len(w.Of) - len(w.Shown()) }

// add adds a trouble, or its place to one that says the same, but for the address of which it does.
func (p *page) add(of place, host string, t status.Trouble) {
	common := t.Common(host)
	for i := range p.Wrong {
		w := &p.Wrong[i]
		same := w.Trouble
		same.Since, same.What = t.Since, t.What
		if same != t || w.common != common {
			continue
		}
		w.Of = append(w.Of, of)
		if w.What != t.What {
			w.What = common
		}
		if w.Since != nil && (t.Since == nil || t.Since.Before(*w.Since)) {
			w.Since = t.Since
		}
		return
	}
	p.Wrong = append(p.Wrong, wrong{[]place{of}, t, common})
}

// WrongShown are the worst troubles, and WrongMore how many there are besides.
func (p *page) WrongShown() []wrong { return p.Wrong[:min(len(p.Wrong), troublesShown)] }
func (p *page) WrongMore() int      { return len(p.Wrong) - len(p.WrongShown()) }

// Headline is the state of the daemon in one line.
func (p *page) Headline() string {
	n := map[string]int{}
	for _, w := range p.Wrong {
		n[w.Severity]++
	}
	critical, warnings := n[event.SeverityCritical], n[event.SeverityWarning]
	switch {
	case critical > 0 && critical+warnings > 1:
		return fmt.Sprintf("%d things need attention", critical+warnings)
	case warnings > 1:
		return fmt.Sprintf("%d things to look at", warnings)
	case critical == 1:
		return "One thing needs attention"
	case warnings == 1:
		return "One thing to look at"
	case !p.Ready:
		return "Not ready yet"
	case p.Role == status.RoleStandby:
		return "Standing by"
	}
	return "All HMCs and sinks work"
}

// Level is the severity of the whole.
func (p *page) Level() string {
	switch {
	case len(p.Wrong) > 0:
		return p.Wrong[0].Severity
	case !p.Ready:
		return pending
	}
	return "ok"
}

// Summary is the state in numbers.
func (p *page) Summary() string {
	if p.Role == status.RoleStandby {
		if p.Leader == "" {
			return "It is not known yet which daemon leads; this one takes over when none does."
		}
		return "The daemon on " + p.Leader + " leads; this one takes over when that ends."
	}
	connected, accepting := 0, 0
	for i := range p.HMCs {
		if p.HMCs[i].Connected {
			connected++
		}
	}
	for i := range p.Sinks {
		if p.Sinks[i].Accepting() {
			accepting++
		}
	}
	text := fmt.Sprintf("%d of %d %s connected and subscribed, %d of %d %s accepting events.",
		connected, len(p.HMCs), units.Plural(len(p.HMCs), "HMC"),
		accepting, len(p.Sinks), units.Plural(len(p.Sinks), "sink"))
	if p.Leader != "" {
		text += " This daemon, on " + p.Leader + ", leads; others may stand by."
	}
	return text
}

// Title is that of the window: it is seen where the page is not.
func (p *page) Title() string {
	n := 0
	for _, w := range p.Wrong {
		if w.Severity != pending {
			n++
		}
	}
	if n > 0 {
		return fmt.Sprintf("(%d) hmcnotifyd", n)
	}
	return "hmcnotifyd"
}

// estateView is the table of CPCs and partitions.
type estateView struct {
	Query, Status string
	// all of them are asked for; only those in trouble
	All, Trouble bool
	Units        []status.Unit
	// how many there are, shown or not
	Matching int
	Total    int
	// how many are in trouble, and the worst severity of them
	Sick     int
	Worst    string
	Statuses []statusCount
	// there is more than one group
	Groups bool
}

type statusCount struct {
	Status, Severity string
	N                int
	Selected         bool
	Link             string
}

// newEstate selects what a query asks for.
func newEstate(all []status.Unit, q url.Values) estateView {
	// A link of each status repeats what is searched for.
	search, one := q.Get("q"), q.Get("status")
	bounded := func(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxFilter)], "") }
	v := estateView{
		Query: strings.TrimSpace(bounded(search)), Status: bounded(one), All: q.Get("all") != "", Total: len(all),
		Trouble: q.Get("trouble") != "",
	}
	slices.SortStableFunc(all, func(a, b status.Unit) int {
		return cmp.Or(natural.Compare(a.Group, b.Group), natural.Compare(a.CPC, b.CPC),
			cmp.Compare(rank(&a), rank(&b)), natural.Compare(a.Name, b.Name))
	})
	words := strings.Fields(strings.ToLower(v.Query))
	counts := map[string]*statusCount{}
	for i := range all {
		u := &all[i]
		if u.Group != all[0].Group {
			v.Groups = true
		}
		sick := level(u.Severity) > 0
		if sick {
			v.Sick++
			if v.Worst == "" || level(u.Severity) > level(v.Worst) {
				v.Worst = u.Severity
			}
		}
		if !fits(u, words) || v.Trouble && !sick {
			continue
		}
		c := counts[u.Status]
		if c == nil {
			c = &statusCount{
				Status: u.Status, Severity: u.Severity,
				Selected: v.Status != "" && v.Status == statusText(u.Status),
			}
			status := ""
			if !c.Selected {
				status = statusText(u.Status)
			}
			c.Link = v.link(url.Values{}, status)
			counts[u.Status] = c
		}
		c.N++
		if v.Status != "" && v.Status != statusText(u.Status) {
			continue
		}
		v.Matching++
		if v.All || len(v.Units) < unitsShown {
			v.Units = append(v.Units, *u)
		}
	}
	for _, c := range counts {
		v.Statuses = append(v.Statuses, *c)
	}
	slices.SortFunc(v.Statuses, func(a, b statusCount) int {
		return cmp.Or(level(b.Severity)-level(a.Severity), b.N-a.N, cmp.Compare(a.Status, b.Status))
	})
	return v
}

// AllLink asks for all that match.
func (v *estateView) AllLink() string { return v.link(url.Values{"all": {"1"}}, v.Status) }

// link is the address of the table with the words that are searched for.
func (v *estateView) link(q url.Values, status string) string {
	if v.Query != "" {
		q.Set("q", v.Query)
	}
	if status != "" {
		q.Set("status", status)
	}
	if v.Trouble {
		q.Set("trouble", "1")
	}
	return "?" + q.Encode() + "#estate"
}

// fits reports whether all words are part of what the table shows of a unit.
func fits(u *status.Unit, words []string) bool {
	if len(words) == 0 {
		return true
	}
	shown := []string{u.Name, u.CPC, className(u.Class), statusText(u.Status), u.Group}
	text := strings.ToLower(strings.Join(shown, "\n"))
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
}

func rank(u *status.Unit) int {
	if u.Class == "cpc" {
		return 0
	}
	return 1
}

func level(severity string) int { return slices.Index(event.Severities(), severity) }

func statusText(status string) string { return cmp.Or(status, "unknown") }

func className(class string) string {
	switch class {
	case "cpc":
		return "CPC"
	case "logical-partition":
		return "LPAR"
	}
	return class
}

func (h handler) landing(w http.ResponseWriter, r *http.Request) {
	p := h.page(r.URL.Query())
	// Complete before the first byte is sent, so that an error can still be said.
	var out bytes.Buffer
	if err := h.template.Execute(&out, p); err != nil {
		h.Logger.Error("the page could not be made", zap.Error(err))
		http.Error(w, "the page could not be made; the daemon's log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	// What comes from an HMC cannot turn the page around, or look like something else.
	shown := bytes.Map(func(r rune) rune {
		if r == '\n' {
			return r
		}
		return event.PrintableRune(r)
	}, out.Bytes())
	w.Header().Set("Content-Length", strconv.Itoa(len(shown)))
	if _, err := w.Write(shown); err != nil {
		h.Logger.Debug("the page could not be written", zap.Error(err))
	}
}

func (h handler) page(q url.Values) *page {
	p := &page{
		Build: h.Build, Status: h.now.get(h.Status), Config: h.Config(), Now: time.Now().UTC(),
		Docs: docsOf(h.Build.Version), Live: h.Live != nil, Types: event.Types(),
	}
	p.HMCParts = newParts(p.HMCs, func(h *status.HMCStatus) string { return h.Name },
		func(h *status.HMCStatus) bool { return !h.Connected || len(h.Troubles) > 0 })
	p.SinkParts = newParts(p.Sinks, func(s *status.SinkStatus) string { return s.Name },
		func(s *status.SinkStatus) bool { return !s.Accepting() || len(s.Troubles) > 0 })
	said, places := map[place]bool{}, p.places()
	for _, of := range places {
		for _, t := range of.troubles {
			said[of.place] = true
			p.add(of.place, of.host, t)
		}
	}
	daemon := place{Anchor: "daemon"}
	for _, t := range p.Config.troubles() {
		p.add(daemon, "", t)
	}
	// What keeps the daemon from being ready and is no trouble: a first logon that is under
	// way, for example.
	for _, r := range p.Reasons {
		of := daemon
		for _, part := range places {
			if part.Kind == "HMC" && part.Name == r.HMC || part.Kind == "Sink" && part.Name == r.Sink {
				of = part.place
			}
		}
		if !said[of] {
			p.add(of, "", status.Trouble{Severity: pending, What: r.Reason})
		}
	}
	slices.SortStableFunc(p.Wrong, func(a, b wrong) int { return level(b.Severity) - level(a.Severity) })
	var all []status.Unit
	if h.Units != nil {
		all = h.Units()
	}
	p.Estate = newEstate(all, q)
	return p
}

// pending is the severity of what is expected to pass by itself.
const pending = "pending"

// part is a part of the daemon with its troubles.
type part struct {
	place
	host     string
	troubles []status.Trouble
}

// places lists the HMCs and the sinks as the page does, and at last the daemon itself.
func (p *page) places() (all []part) {
	for _, h := range append(slices.Clip(p.HMCParts.Cards), p.HMCParts.Rows...) {
		all = append(all, part{place{"HMC", h.Is.Name, fmt.Sprintf("hmc-%d", h.Number)}, h.Is.Host, h.Is.Troubles})
	}
	for _, s := range append(slices.Clip(p.SinkParts.Cards), p.SinkParts.Rows...) {
		all = append(all, part{place{"Sink", s.Is.Name, fmt.Sprintf("sink-%d", s.Number)}, "", s.Is.Troubles})
	}
	return append(all, part{place{Anchor: "daemon"}, "", p.Troubles})
}

// newTemplate reads the page.
func newTemplate() *template.Template {
	return template.Must(template.New("page.html").Funcs(template.FuncMap{
		"asset": asset, "ago": ago, "lasted": lasted, "stamp": stamp, "bytes": units.ByteSize, "number": units.Number,
		"plural": units.Plural[int], "spark": newSpark, "state": stateText, "class": className, "status": statusText,
		"cut":     cutList,
		"seconds": func(s float64) string { return units.ShortDuration(time.Duration(s * float64(time.Second))) },
		"reversed": func(o []status.Outage) []status.Outage {
			o = slices.Clone(o)
			slices.Reverse(o)
			return o
		},
		"days": func(now, t time.Time) string {
			d := int(t.Sub(now).Hours() / 24)
			return fmt.Sprintf("%d %s", d, units.Plural(d, "day"))
		},
		"subscribed": func(topics []status.TopicStatus) int {
			n := 0
			for _, t := range topics {
				if t.Subscribed {
					n++
				}
			}
			return n
		},
		"args":   func(v ...any) []any { return v },
		"int":    func(n int64) int { return int(min(n, 2)) }, // for plural
		"moment": newMoment, "words": strings.Fields,
		"lastMinute": func(counts []int64) int64 {
			if len(counts) < 2 {
				return 0
			}
			return counts[len(counts)-2]
		},
	}).ParseFS(files, "page.html"))
}

// cutList returns the first keys of a map, in order, and how many more there are.
func cutList(m map[string]string) (list struct {
	Items [][2]string
	More  int
},
) {
	for k, v := range m {
		list.Items = append(list.Items, [2]string{k, v})
	}
	slices.SortFunc(list.Items, func(a, b [2]string) int { return cmp.Compare(a[0], b[0]) })
	if n := len(list.Items); n > listShown {
		list.Items, list.More = list.Items[:listShown], n-listShown
	}
	return list
}

func stateText(state string) string { return strings.ReplaceAll(state, "_", " ") }

// moment is a point in time: today its date is left out. Relative is how long ago it was, or how
// soon it will be.
type moment struct{ ISO, Full, Short, Relative string }

func newMoment(now, t time.Time) moment {
	now, t = now.UTC(), t.UTC()
	m := moment{ISO: t.Format(time.RFC3339), Full: stamp(t), Short: stamp(t), Relative: ago(now, t)}
	if t.Truncate(24 * time.Hour).Equal(now.Truncate(24 * time.Hour)) {
		m.Short = t.Format(time.TimeOnly)
	}
	return m
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

// ago is how long ago a time was, or how soon it will be.
func ago(now, t time.Time) string {
	switch d := now.Sub(t); {
	case d >= time.Second:
		return units.ShortDuration(d) + " ago"
	case d <= -time.Second:
		return "in " + units.ShortDuration(-d)
	}
	return "now"
}

// lasted is how long something lasted, or lasts, that began at t.
func lasted(until, t time.Time) string { return units.ShortDuration(until.Sub(t)) }

// spark is a small chart of what happened in each of the last minutes.
type spark struct {
	// paths: the minutes that are over, and the one that is not
	Done, Running string
	Width, Height int
	// of the last minute that is over
	Last      int64
	Peak, Sum int64
}

const (
	// sparkBar is the width of a minute.
	sparkBar    = 4
	sparkHeight = 36
)

func newSpark(counts []int64) spark {
	s := spark{Width: sparkBar * len(counts), Height: sparkHeight}
	for _, n := range counts {
		s.Peak = max(s.Peak, n)
		s.Sum += n
	}
	if len(counts) > 1 {
		s.Last = counts[len(counts)-2]
	}
	var b strings.Builder
	for i, n := range counts {
		if i == len(counts)-1 {
			s.Done = b.String()
			b.Reset()
		}
		if n <= 0 {
			continue
		}
		// something is more than nothing, however little
		height := max(2, float64(n)/float64(s.Peak)*(sparkHeight-2))
		fmt.Fprintf(&b, "M%d %dv-%.1fh%dv%.1fz", i*sparkBar, sparkHeight, height, sparkBar-1, height)
	}
	s.Running = b.String()
	return s
}
