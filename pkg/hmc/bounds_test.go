package hmc

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/budget"
	"github.com/hmcnotifyd/hmcnotifyd/tests/output"
)

// listOf is the answer that lists n partitions.
func listOf(member string, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"x":{"a":[1]},%q:[`, member)
	for i := range n {
		if i > 0 {
			b.WriteString(" ,\n")
		}
		fmt.Fprintf(&b, `{"name":"p%d","object-uri":"/api/partitions/%d","x":[{}]}`, i, i)
	}
	return b.String() + `],"y":1}`
}

// Of a list that has more than the largest sites have the first ones are taken, and an error says so.
func TestListsAreLimited(t *testing.T) {
	for name, test := range map[string]struct {
		answer  string
		want    int
		tooMany bool
		problem string
	}{
		"as many as are taken": {listOf("partitions", MaxPartitions), MaxPartitions, false, ""},
		"one more":             {listOf("partitions", MaxPartitions+1), MaxPartitions, true, ""},
		"many more":            {listOf("partitions", 5*MaxPartitions), MaxPartitions, true, ""},
		"few, and much else":   {`{"partitions":[{"name":"p0","object-uri":"a"},{"name":"p1","object-uri":"b"}],"z":"` + strings.Repeat("z", maxAnswer), 2, true, ""},
		"cut before the list":  {`{"z":"` + strings.Repeat("z", maxAnswer), 0, true, ""},
		"none":                 {listOf("partitions", 0), 0, false, ""},
		"null":                 {`{"partitions":null}`, 0, false, ""},
		"no list":              {`{}`, 0, false, ""},
		"twice":                {`{"partitions":[5],"partitions":[{"name":"p0","object-uri":"a"},{"name":"p1","object-uri":"b"}]}`, 2, false, ""},
		"no array":             {`{"partitions":{}}`, 0, false, "no array of partitions"},
		"no object":            {`[]`, 0, false, "no object"},
		"elements of no kind":  {`{"partitions":[1,{"object-uri":"p0","name":7},null,"x",[],{},{"object-uri":7},{"name":"p1","object-uri":"b"}]}`, 2, false, "of the partitions in the answer 6 are not as it is documented"},
		"no JSON behind it":    {listOf("partitions", 1) + "x", 0, false, "invalid character"},
		"cut by the HMC":       {`{"partitions":[{},`, 0, false, "unexpected end"},
	} {
		t.Run(name, func(t *testing.T) {
			w := startWire(t, "127.0.0.1:0", func(int, request) string { return jsonAnswer(200, test.answer) })
			got, err := w.client(Options{}).Resume(testToken, testCredential).ListPermittedPartitions(t.Context())
			tooMany, ok := errors.AsType[*TooManyError](err)
			switch {
			case len(got) != test.want || ok != test.tooMany || ok && tooMany.Taken != test.want:
				t.Errorf("%d partitions, %v", len(got), err)
			case !ok && (err == nil) != (test.problem == ""), !ok && err != nil && !strings.Contains(err.Error(), test.problem):
				t.Errorf("%v, want %q", err, test.problem)
			}
			if n := len(got); n > 0 && test.problem == "" && name != "twice" && got[n-1].Name != fmt.Sprint("p", n-1) {
				t.Errorf("the last one is %+v", got[n-1])
			}
		})
	}
	// A session with too many topics lives.
	topics := strings.ReplaceAll(listOf("topics", MaxTopics+1), `"name"`, `"topic-name"`)
	w := startWire(t, "127.0.0.1:0", func(int, request) string { return jsonAnswer(200, topics) })
	s := w.client(Options{}).Resume(testToken, testCredential)
	if got, err := s.NotificationTopics(t.Context()); len(got) != MaxTopics || err == nil {
		t.Errorf("%d topics, %v", len(got), err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// An answer with more entries than are taken is one for which a shorter time is asked.
func TestTooManyEntries(t *testing.T) {
	for n, tooLong := range map[int]bool{MaxEntries: false, MaxEntries + 1: true} {
		answer := "[" + strings.Repeat("{},", n-1) + "{}]"
		w := startWire(t, "127.0.0.1:0", func(int, request) string { return jsonAnswer(200, answer) })
		got, err := w.client(Options{}).Resume(testToken, testCredential).ListOSMessages(t.Context(), "/api/partitions/p", 0)
		wrong, ok := errors.AsType[*AnswerError](err)
		if ok != tooLong || tooLong && !wrong.TooLong || !tooLong && len(got) != n {
			t.Errorf("%d entries: %d, %v", n, len(got), err)
		}
	}
}

// Answers that are being read are within the budget of all HMCs; what they took is given back.
func TestAnswersAreWithinTheBudget(t *testing.T) {
	all := budget.New(2 << 20)
	log := `[{"x":"` + strings.Repeat("x", 6<<20) + `"}]`
	w := startWire(t, "127.0.0.1:0", func(_ int, r request) string {
		if strings.Contains(r.line, "permitted-partitions") {
			return jsonAnswer(200, listOf("partitions", 5*MaxPartitions))
		}
		return jsonAnswer(200, log)
	})
	s := w.client(Options{Budget: all}).Resume(testToken, testCredential)
	if _, err := s.ListOSMessages(t.Context(), "/api/partitions/p", 0); err == nil || !strings.Contains(err.Error(), "there is no memory for an answer of more than 2 MiB") {
		t.Error(err)
	}
	got, err := s.ListPermittedPartitions(t.Context())
	if _, ok := errors.AsType[*TooManyError](err); !ok || len(got) < 10_000 {
		t.Errorf("%d partitions, %v", len(got), err)
	}
	if all.Used() != 0 {
		t.Errorf("%d are not given back", all.Used())
	}
	log = `[{"x":"` + strings.Repeat("x", 1<<20) + `"}]`
	if got, err := s.ListOSMessages(t.Context(), "/api/partitions/p", 0); err != nil || len(got) != 1 {
		t.Errorf("%d, %v", len(got), err)
	}
}

// Whatever an HMC repeats of what it was told, in whichever form and answer, is in no error and no line of the log.
func TestRepeatedSecretsAreHidden(t *testing.T) {
	const password = `pass&word%"<1`
	forms := func(secret string) []string {
		return []string{secret, url.QueryEscape(secret), strings.NewReplacer("&", `\u0026`, "<", `\u003c`, `"`, `\"`).Replace(secret)}
	}
	var lines output.Buffer
	var answer atomic.Pointer[string]
	w := startWire(t, "127.0.0.1:0", func(_ int, r request) string {
		if strings.HasPrefix(r.line, "POST") {
			return jsonAnswer(200, logonBody)
		}
		return *answer.Load()
	})
	c := w.client(Options{Logger: debugLogger(&lines)})
	s, err := c.Logon(t.Context(), "u", password)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	shown := 0
	for _, secret := range []string{password, testToken, testCredential} {
		for _, form := range forms(secret) {
			for _, text := range []string{
				jsonAnswer(500, fmt.Sprintf(`{"reason":1,"message":%q}`, "cannot use "+form)),
				jsonAnswer(200, fmt.Sprintf(`{"topics":[{"topic-name":{"x":%q}}]`, form)),
				"HTTP/1.1 " + form + "\r\n\r\n", "HTTP/1.1 200 OK\r\n" + form + "\r\n\r\n", form + "\r\n\r\n",
			} {
				answer.Store(&text)
				_, topics := s.NotificationTopics(t.Context())
				_, version := c.QueryAPIVersion(t.Context())
				fmt.Fprintln(&out, topics, version)
				shown++
			}
		}
	}
	out.WriteString(lines.String())
	for _, secret := range []string{password, testToken, testCredential} {
		for _, form := range forms(secret) {
			if i := strings.Index(out.String(), form); i >= 0 {
				t.Errorf("%q is shown: %.300q", form, out.String()[max(0, i-200):])
			}
		}
	}
	if n := strings.Count(out.String(), "repeats a secret"); n < shown {
		t.Errorf("%d errors do not show it, of %d", n, shown)
	}
}
