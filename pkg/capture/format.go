package capture

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/jsontext"
)

const (
	// Format is in the first line of a capture.
	Format = "hmcnotifyd-capture"
	// Version is there as well. A reader refuses a newer one than its own.
	Version = 1
	// MaxLine bounds each line, in bytes, so that a capture is read in little memory. A body that
	// does not fit is left out when it is written: those of frames have 4 MiB at most.
	MaxLine = 5 << 20
)

// Header is the first line of a capture.
type Header struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	// Program is the version of hmcnotifyd that wrote it.
	Program string    `json:"program"`
	Began   time.Time `json:"began"`
	// Names says that names are as they were; else they are replaced.
	Names bool `json:"names"`
}

// The kinds of an Entry, each with the member that is set.
const (
	KindRequest = "request"
	KindFrame   = "frame"
	KindLink    = "link"
	KindEnd     = "end"
)

// Entry is a line of a capture after the first one.
type Entry struct {
	// At is when it happened, in microseconds after Header.Began: a request when it was sent, a
	// frame when its last byte was read.
	At      int64    `json:"at_us"`
	Kind    string   `json:"kind"`
	Request *Request `json:"request,omitempty"`
	Frame   *Frame   `json:"frame,omitempty"`
	Link    *Link    `json:"link,omitempty"`
	// End is the last line: where it is missing, the file is cut off.
	End *End `json:"end,omitempty"`
}

// Time is when it happened, after the beginning.
func (e *Entry) Time() time.Duration { return time.Duration(e.At) * time.Microsecond }

// Request is a request of the Web Services API, and its answer.
type Request struct {
	// Operation is its name as hmcnotifyd_hmc_rest_requests_total has it.
	Operation string `json:"operation"`
	Method    string `json:"method"`
	// URI is the path, without query.
	URI   string  `json:"uri"`
	Query string  `json:"query,omitempty"`
	Sent  Content `json:"sent,omitzero"`
	// Took is how long it was until the end of the answer, in microseconds.
	Took int64 `json:"took_us"`
	// Status is that of HTTP; 0: there was no answer, because of Failure.
	Status  int     `json:"status"`
	Failure string  `json:"failure,omitempty"`
	Headers Headers `json:"headers,omitzero"`
	Answer  Content `json:"answer,omitzero"`
}

// Headers are those of an answer that tell something about the HMC.
type Headers struct {
	ContentType string `json:"Content-Type,omitempty"`
	RetryAfter  string `json:"Retry-After,omitempty"`
}

// The commands of a Frame. SUBSCRIBE was sent to the HMC, the others came from it.
const (
	Connected = "CONNECTED"
	Message   = "MESSAGE"
	Error     = "ERROR"
	Receipt   = "RECEIPT"
	Subscribe = "SUBSCRIBE"
)

// Frame is a STOMP frame.
type Frame struct {
	Command string  `json:"command"`
	Headers Pairs   `json:"headers,omitempty"`
	Body    Content `json:"body,omitzero"`
}

// Pairs are headers of a frame: name and value, unescaped, in the order in which they came.
type Pairs [][2]string

// Get returns the first value of a header; "": there is none.
func (f *Frame) Get(name string) string {
	for _, h := range f.Headers {
		if h[0] == name {
			return h[1]
		}
	}
	return ""
}

// Link says that the link has ended, and why, as the reasons of receiver_connect_failures_total. ""
// is where the capture itself ended it. Failed says that there was none yet: it could not be made.
type Link struct {
	Lost   string `json:"lost,omitempty"`
	Failed bool   `json:"failed,omitempty"`
}

// End are counts of what is in the capture, which show that it is whole.
type End struct {
	Requests int `json:"requests"`
	Frames   int `json:"frames"`
	// Omitted is how many entries were too large, and are there without their bodies, or not at
	// all.
	Omitted int `json:"omitted,omitempty"`
	// Full says that it was ended because it became too large.
	Full bool `json:"full,omitempty"`
	// Partial says that the capture went on, and was killed, or could not be written any more.
	Partial bool `json:"partial,omitempty"`
	// Words is how many different words were replaced.
	Words int `json:"words"`
}

// Content is a body: JSON where it is that, else text, or bytes where it is not even UTF-8.
// Nothing is set where there was none. Omitted is how many bytes one had that is left out.
type Content struct {
	JSON json.RawMessage `json:"json,omitempty"`
	// Mended says that JSON had control characters, or bytes that are not UTF-8, in its strings.
	Mended bool   `json:"mended,omitempty"`
	Text   string `json:"text,omitempty"`
	Bytes  []byte `json:"bytes,omitempty"`

	Omitted int `json:"omitted,omitempty"`
}

func contentOf(b []byte) Content {
	if len(b) == 0 {
		return Content{}
	}
	if utf8.Valid(b) && json.Valid(b) {
		return Content{JSON: b}
	}
	mended := jsontext.Mended(b)
	switch {
	case json.Valid(mended):
		return Content{JSON: mended, Mended: true}
	case utf8.Valid(b):
		return Content{Text: string(b)}
	}
	return Content{Bytes: b}
}

// Raw returns the body as it was; nil: there was none.
func (c *Content) Raw() []byte {
	switch {
	case c.JSON != nil:
		return c.JSON
	case c.Text != "":
		return []byte(c.Text)
	}
	return c.Bytes
}

// Create makes a file that is for this user alone, and not there yet.
func Create(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, os.ErrExist):
		return nil, fmt.Errorf("%s is there already, and is not overwritten: name another one, or remove it", name)
	}
	return nil, fmt.Errorf("%s cannot be written: %w; name a file where there is room and you may write",
		name, Cause(err))
}

// Writer writes a capture. Close must be called.
type Writer struct {
	zip  *gzip.Writer
	line bytes.Buffer
	enc  *json.Encoder // into line
	// counts are of what was written.
	counts End
}

// NewWriter begins a capture.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	zip, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("a capture cannot be written: %w", err)
	}
	c := &Writer{zip: zip}
	c.enc = json.NewEncoder(&c.line)
	c.enc.SetEscapeHTML(false)
	h.Format, h.Version = Format, Version
	if err := c.encode(h); err != nil {
		return nil, err
	}
	return c, c.flush()
}

// Write adds an entry. One that no Reader would take is there without its bodies, or, if it is
// still none, not at all. The last one is of kind end: it gets the counts of what was written.
func (c *Writer) Write(e *Entry) error {
	if e.Kind == KindEnd && e.End != nil {
		end := *e.End
		end.Requests, end.Frames, end.Omitted = c.counts.Requests, c.counts.Frames, c.counts.Omitted
		last := *e
		last.End = &end
		e = &last
	}
	fits, err := c.fits(e)
	if err == nil && !fits {
		c.counts.Omitted++
		if fits, err = c.fits(e.withoutBodies()); !fits {
			return err
		}
	}
	if err != nil {
		return err
	}
	c.counts.count(e)
	return c.flush()
}

// fits encodes an entry, and says whether a Reader takes it.
func (c *Writer) fits(e *Entry) (bool, error) {
	if e.fault() != "" {
		return false, nil
	}
	err := c.encode(e)
	return err == nil && c.line.Len() <= MaxLine, err
}

func (c *Writer) encode(line any) error {
	c.line.Reset()
	if err := c.enc.Encode(line); err != nil {
		return fmt.Errorf("a capture cannot be written: %w", err)
	}
	return nil
}

func (c *Writer) flush() error {
	if _, err := c.zip.Write(c.line.Bytes()); err != nil {
		return err // it is that of what is written to
	}
	return nil
}

// Close ends the file, and not what is below it.
func (c *Writer) Close() error { return c.zip.Close() }

// count counts an entry.
func (c *End) count(e *Entry) {
	switch e.Kind {
	case KindRequest:
		c.Requests++
	case KindFrame:
		c.Frames++
	}
}

// largeBody is from how many bytes on a body is left out of an entry that is too large.
const largeBody = 64 << 10

// withoutBodies returns an entry without its large bodies.
func (e *Entry) withoutBodies() *Entry {
	lighter := *e
	omit := func(c *Content) {
		if n := len(c.Raw()); n >= largeBody {
			*c = Content{Omitted: n}
		}
	}
	if e.Request != nil {
		r := *e.Request
		omit(&r.Sent)
		omit(&r.Answer)
		lighter.Request = &r
	}
	if e.Frame != nil {
		f := *e.Frame
		omit(&f.Body)
		lighter.Frame = &f
	}
	return &lighter
}
