package capture

import (
	"io"
	"slices"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

const (
	// DefaultMax is how many bytes of an HMC a Recorder keeps.
	DefaultMax = 64 << 20
	// entryOverhead is what an entry takes besides its bodies and headers.
	entryOverhead = 512
)

// Recorder keeps in memory what goes to and fro, until it is written. Nothing of it goes to a disk
// before the names and secrets are out. Its methods may be called by any goroutine.
type Recorder struct {
	began time.Time
	max   int
	full  chan struct{}

	mu      sync.Mutex
	entries []*Entry
	size    int
	ended   bool
	isFull  bool
}

// NewRecorder makes a Recorder that keeps so many bytes; 0: DefaultMax.
func NewRecorder(limit int) *Recorder {
	if limit == 0 {
		limit = DefaultMax
	}
	return &Recorder{began: time.Now(), max: limit, full: make(chan struct{})}
}

// Full is closed when there is no room for more: the rest is not recorded.
func (r *Recorder) Full() <-chan struct{} { return r.full }

// Size returns how many entries there are, and bytes.
func (r *Recorder) Size() (entries, size int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.entries), r.size
}

func (r *Recorder) add(at time.Time, size int, e *Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	if r.size+size+entryOverhead > r.max {
		r.ended, r.isFull = true, true
		close(r.full)
		return
	}
	r.size += size + entryOverhead
	e.At = max(0, at.Sub(r.began).Microseconds())
	r.entries = append(r.entries, e)
}

// Exchange records a request and its answer.
func (r *Recorder) Exchange(x hmc.Exchange) {
	q := &Request{
		Operation: x.Operation, Method: x.Method, URI: x.URI, Query: x.Query, Status: x.Status,
		Sent: contentOf(slices.Clone(x.Sent)), Answer: contentOf(slices.Clone(x.Answer)), Took: x.Took.Microseconds(),
	}
	if x.Status == 0 {
		q.Failure = hmc.FailureReason(x.Err)
	}
	q.Headers.ContentType, q.Headers.RetryAfter = x.Header.Get("Content-Type"), x.Header.Get("Retry-After")
	r.add(x.Began, len(x.Sent)+len(x.Answer)+len(x.URI)+len(x.Query), &Entry{Kind: KindRequest, Request: q})
}

// Frame records a frame, or the end of a link.
func (r *Recorder) Frame(f receiver.Traffic) {
	if f.Command == "" {
		r.add(f.At, 0, &Entry{Kind: KindLink, Link: &Link{Lost: f.Lost}})
		return
	}
	g := &Frame{Command: f.Command, Body: contentOf(slices.Clone(f.Body))}
	size := len(f.Body)
	for _, h := range f.Headers {
		g.Headers = append(g.Headers, [2]string{h.Name, h.Value})
		size += len(h.Name) + len(h.Value)
	}
	r.add(f.At, size, &Entry{Kind: KindFrame, Frame: g})
}

// NoLink records that a link could not be made, and why, as Link has it.
func (r *Recorder) NoLink(at time.Time, reason string) {
	r.add(at, 0, &Entry{Kind: KindLink, Link: &Link{Lost: reason, Failed: true}})
}

// LetIn says whether the HMC has told anything that it does not tell everybody.
func (r *Recorder) LetIn() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.entries, func(e *Entry) bool {
		return e.Frame != nil || e.Request != nil && e.Request.Status/100 == 2 && e.Request.URI != "/api/version"
	})
}

// WriteOptions say what is written.
type WriteOptions struct {
	// Names keeps names as they are. Secrets are never kept.
	Names bool
	// Secrets are those that are known; others are found by where they stand. Known are names that
	// must not be seen wherever they are: of hosts, of the userid.
	Secrets, Known []string
	// Program is the version of the program.
	Program string
	// Partial says that the recording goes on, and what is written is what there is until now.
	Partial bool
}

// Write writes what was recorded, without secrets and names. Unless it is partial nothing is
// recorded after that.
func (r *Recorder) Write(w io.Writer, o WriteOptions) error {
	r.mu.Lock()
	r.ended = r.ended || !o.Partial
	entries, end := slices.Clone(r.entries), End{Full: r.isFull, Partial: o.Partial} // an entry does not change
	r.mu.Unlock()
	slices.SortStableFunc(entries, func(a, b *Entry) int { return int(a.At - b.At) })
	c := &cleaner{noting: true, secrets: slices.Clone(o.Secrets)}
	if !o.Names {
		c.names = newWords()
		for _, name := range o.Known {
			c.names.replace(name, true, nil)
		}
	}
	for _, e := range entries {
		c.entry(e)
	}
	c.replace()
	out, err := NewWriter(w, Header{Program: o.Program, Began: r.began.UTC(), Names: o.Names})
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := out.Write(c.entry(e)); err != nil {
			return err
		}
	}
	if c.names != nil {
		end.Words = len(c.names.made)
	}
	if err := out.Write(&Entry{At: max(0, time.Since(r.began).Microseconds()), Kind: KindEnd, End: &end}); err != nil {
		return err
	}
	return out.Close()
}
