package terminal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/maruel/natural"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/units"
)

// topWidth is how wide the tables are where nothing says how wide the terminal is.
const topWidth = 120

// TopOptions are what the screen needs.
type TopOptions struct {
	// Ask asks the daemon, which is at Address, every Interval.
	Ask      func() (status.Status, error)
	Address  string
	Interval time.Duration
	Color    bool
}

// Once is what the screen shows, as text.
func Once(s *status.Status, o TopOptions) string {
	return strings.Join(newTopScreen(s, o).lines(), "\n") + "\n"
}

// Top shows HMCs, sinks and troubles until its user, whose keys come from in, or ctx ends it; nil:
// there are no keys. first is the first answer.
func Top(ctx context.Context, in io.Reader, out io.Writer, first *status.Status, o TopOptions) error {
	_, err := tea.NewProgram(newTopScreen(first, o), tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out),
		tea.WithoutSignalHandler()).Run()
	if errors.Is(err, tea.ErrProgramKilled) && ctx.Err() != nil {
		return nil
	}
	return err
}

func newTopScreen(first *status.Status, o TopOptions) *topScreen {
	return &topScreen{TopOptions: o, styles: newStyles(o.Color), last: *first, asked: time.Now(), width: topWidth}
}

// topScreen is what the command shows, and the state of it.
type topScreen struct {
	TopOptions
	*styles

	last  status.Status
	asked time.Time
	// of the last question; nil: last is its answer
	err           error
	width, height int
	// lines above the first that is shown
	offset int
}

type topAnswer struct {
	status status.Status
	at     time.Time
	err    error
}

// Init implements tea.Model.
func (s *topScreen) Init() tea.Cmd { return s.next() }

// next asks the daemon after an interval.
func (s *topScreen) next() tea.Cmd {
	return tea.Tick(s.Interval, func(time.Time) tea.Msg {
		answer, err := s.Ask()
		return topAnswer{answer, time.Now(), err}
	})
}

// Update implements tea.Model.
func (s *topScreen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case topAnswer:
		if s.err = msg.err; msg.err == nil {
			s.last, s.asked = msg.status, msg.at
		}
		return s, s.next()
	case tea.WindowSizeMsg:
		s.width, s.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		switch msg.String() {
		case "q", "ctrl+c", "esc":
			return s, tea.Quit
		case "down", "j":
			s.offset++
		case "up", "k":
			s.offset--
		case "pgdown", "space":
			s.offset += max(1, s.height-2)
		case "pgup":
			s.offset -= max(1, s.height-2)
		case "home":
			s.offset = 0
		}
	}
	return s, nil
}

// View implements tea.Model.
func (s *topScreen) View() tea.View {
	lines := s.lines()
	s.offset = max(0, min(s.offset, len(lines)-s.height+1))
	lines = lines[s.offset:]
	if s.height > 1 && len(lines) >= s.height {
		more := fmt.Sprintf("%d more %s below: arrow keys, q ends", len(lines)-s.height+1,
			units.Plural(len(lines)-s.height+1, "line"))
		lines = append(lines[:s.height-1:s.height-1], s.faint.Render(OneLine(more, s.width)))
	}
	view := tea.NewView(strings.Join(lines, "\n"))
	view.AltScreen = true
	return view
}

// lines are all there is to show.
func (s *topScreen) lines() []string {
	l := &s.last
	state := s.good.Render("ready")
	if !l.Ready {
		state = s.severity[event.SeverityCritical].Render("not ready")
	}
	about := fmt.Sprintf("  up %s  %d %s  %d %s  %s", short(s.asked.Sub(l.Started)),
		len(l.HMCs), units.Plural(len(l.HMCs), "HMC"),
		len(l.Sinks), units.Plural(len(l.Sinks), "sink"), size(l.Storage.Bytes))
	if l.Storage.MaxBytes > 0 {
		about += " of " + size(l.Storage.MaxBytes)
	}
	about += " stored"
	if n := len(l.Held); n > 0 {
		wait := map[bool]string{true: "message waits", false: "messages wait"}[n == 1]
		about += fmt.Sprintf("  %d %s for an answer", n, wait)
	}
	about += "  " + s.asked.Local().Format(time.TimeOnly)
	lines := []string{s.bold.Render("hmcnotifyd") + " at " + OneLine(s.Address, 0) + ": " + state + about}
	if s.err != nil {
		lines = append(lines, s.severity[event.SeverityCritical].Render(
			OneLine("what is shown is old: "+s.err.Error(), s.width)))
	}
	lines = append(lines, s.troubles()...)
	lines = append(lines, s.hmcs()...)
	return append(lines, s.sinks()...)
}

// troubles lists what needs attention, the worst first, what several say the same once.
func (s *topScreen) troubles() []string {
	const most = 5
	said := map[[2]string][]string{} // by severity and what several have in common
	text := map[[2]string]string{}
	var order [][2]string
	add := func(of, host string, troubles []status.Trouble) {
		for _, t := range troubles {
			key := [2]string{t.Severity, t.Common(host)}
			switch {
			case said[key] == nil:
				order, text[key] = append(order, key), t.What
			case text[key] != t.What:
				text[key] = key[1]
			}
			said[key] = append(said[key], of)
		}
	}
	add("daemon", "", s.last.Troubles)
	for i := range s.last.HMCs {
		add("HMC "+s.last.HMCs[i].Name, s.last.HMCs[i].Host, s.last.HMCs[i].Troubles)
	}
	for i := range s.last.Sinks {
		add("sink "+s.last.Sinks[i].Name, "", s.last.Sinks[i].Troubles)
	}
	if len(order) == 0 {
		return nil
	}
	rank := func(key [2]string) int { return slices.Index(event.Severities(), key[0]) }
	slices.SortStableFunc(order, func(a, b [2]string) int { return rank(b) - rank(a) })
	lines := []string{"", s.bold.Render("NEEDS ATTENTION")}
	for _, key := range order {
		of := said[key]
		names := strings.Join(of[:min(most, len(of))], ", ")
		if len(of) > most {
			names += fmt.Sprintf(" and %d more", len(of)-most)
		}
		for i, part := range wrapped(OneLine(names+": "+text[key], 0), s.width-len(key[0])-2) {
			lead := strings.Repeat(" ", len(key[0]))
			if i == 0 {
				lead = s.severity[key[0]].Render(key[0])
			}
			lines = append(lines, lead+"  "+strings.TrimRight(part, " "))
		}
	}
	return lines
}

func (s *topScreen) hmcs() []string {
	rows := [][]string{{"HMC", "STATE", "SINCE", "PER MIN", "LAST", "RECONNECTS", "MISSED"}}
	sick := []bool{false}
	all := slices.Clone(s.last.HMCs)
	slices.SortStableFunc(all, func(a, b status.HMCStatus) int {
		return cmp.Or(sickFirst(!a.Connected || len(a.Troubles) > 0, !b.Connected || len(b.Troubles) > 0),
			natural.Compare(a.Name, b.Name))
	})
	for i := range all {
		h := &all[i]
		rows = append(rows, []string{
			h.Name, strings.ReplaceAll(h.State, "_", " "), s.lasted(&h.Since), lastMinute(h.NotificationsPerMinute),
			s.ago(h.LastNotification), number(h.Reconnects), number(h.Missed),
		})
		sick = append(sick, !h.Connected)
	}
	return s.table(rows, 2, sick)
}

func (s *topScreen) sinks() []string {
	rows := [][]string{{"SINK", "KIND", "STATE", "PER MIN", "WAITING", "OLDEST", "LAST SENT", "DEAD LETTERS"}}
	sick := []bool{false}
	all := slices.Clone(s.last.Sinks)
	slices.SortStableFunc(all, func(a, b status.SinkStatus) int {
		return cmp.Or(sickFirst(!a.Accepting() || len(a.Troubles) > 0, !b.Accepting() || len(b.Troubles) > 0),
			natural.Compare(a.Name, b.Name))
	})
	for i := range all {
		k := &all[i]
		state, oldest := "accepting", "-"
		switch {
		case k.Paused != "":
			state = "paused"
		case !k.Accepting():
			state = "failing"
		}
		if k.QueueEvents > 0 {
			oldest = short(time.Duration(k.OldestEventAgeSeconds * float64(time.Second)))
		}
		rows = append(rows, []string{
			k.Name, k.Kind, state, lastMinute(k.DeliveredPerMinute), number(k.QueueEvents), oldest,
			s.ago(k.LastSuccess), number(k.DeadLetters),
		})
		sick = append(sick, !k.Accepting())
	}
	return s.table(rows, 3, sick)
}

func sickFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// lastMinute is the last minute that is over.
func lastMinute(perMinute []int64) string {
	if len(perMinute) < 2 {
		return "-"
	}
	return number(perMinute[len(perMinute)-2])
}

func (s *topScreen) lasted(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return short(s.asked.Sub(*t))
}

func (s *topScreen) ago(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return s.lasted(t) + " ago"
}

// table lays out rows, of which the first is the head; the columns behind the first left ones are
// flush right.
func (s *topScreen) table(rows [][]string, left int, sick []bool) []string {
	if len(rows) == 1 {
		return nil
	}
	const nameMost = 40
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i := range row {
			row[i] = OneLine(row[i], nameMost)
			widths[i] = max(widths[i], lipgloss.Width(row[i]))
		}
	}
	lines := []string{""}
	for n, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-lipgloss.Width(cell))
			if i > 0 {
				line.WriteString("  ")
			}
			if i < left {
				line.WriteString(cell + pad)
			} else {
				line.WriteString(pad + cell)
			}
		}
		text := strings.TrimRight(OneLine(line.String(), s.width), " ")
		switch {
		case n == 0:
			text = s.bold.Render(text)
		case sick[n]:
			text = s.severity[event.SeverityCritical].Render(text)
		}
		lines = append(lines, text)
	}
	return lines
}

// What a page writes with narrow blanks has plain ones here, which every terminal has.
func short(d time.Duration) string { return plain(units.ShortDuration(d)) }
func size(n int64) string          { return plain(units.ByteSize(n)) }
func number(n any) string          { return plain(units.Number(n)) }

func plain(s string) string { return strings.ReplaceAll(s, "\u202f", " ") }
