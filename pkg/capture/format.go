package capture

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/jsontext"
)

const (
	// Format is in the first line of a capture.
	Format = "hmcnotifyd-capture"
	// Version is there as well. A reader refuses a newer one than its own.
	Version = 1
	// maxLine bounds one line of a capture that is read: an answer has 32 MiB at most.
	maxLine = 96 << 20
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
	Status  int               `json:"status"`
	Failure string            `json:"failure,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Answer  Content           `json:"answer,omitzero"`
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
	Command string `json:"command"`
	// Headers are pairs of name and value, unescaped, in the order in which they came.
	Headers [][2]string `json:"headers,omitempty"`
	Body    Content     `json:"body,omitzero"`
}

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
// is where the capture itself ended it.
type Link struct {
	Lost string `json:"lost,omitempty"`
}

// End are counts of what is in the capture, which show that it is whole.
type End struct {
	Requests int `json:"requests"`
	Frames   int `json:"frames"`
	// Full says that it was ended because it became too large.
	Full bool `json:"full,omitempty"`
	// Partial says that the capture went on, and was killed, or could not be written any more.
	Partial bool `json:"partial,omitempty"`
	// Words is how many different words were replaced.
	Words int `json:"words"`
}

// Content is a body: JSON where it is that, else text, or bytes where it is not even UTF-8.
// Nothing is set where there was none.
type Content struct {
	JSON json.RawMessage `json:"json,omitempty"`
	// Mended says that JSON had control characters, or bytes that are not UTF-8, in its strings.
	Mended bool   `json:"mended,omitempty"`
	Text   string `json:"text,omitempty"`
	Bytes  []byte `json:"bytes,omitempty"`
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

// Writer writes a capture. Close must be called.
type Writer struct {
	zip *gzip.Writer
	enc *json.Encoder
}

// NewWriter begins a capture.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	zip, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	c := &Writer{zip: zip, enc: json.NewEncoder(zip)}
	c.enc.SetEscapeHTML(false)
	h.Format, h.Version = Format, Version
	return c, c.write(h)
}

// Write adds an entry.
func (c *Writer) Write(e *Entry) error { return c.write(e) }

func (c *Writer) write(line any) error {
	if err := c.enc.Encode(line); err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	return nil
}

// Close ends the file, and not what is below it.
func (c *Writer) Close() error {
	if err := c.zip.Close(); err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	return nil
}

// Reader reads a capture.
type Reader struct {
	Header

	lines *bufio.Scanner
	line  int
	ended bool
}

// NewReader reads the first line.
func NewReader(r io.Reader) (*Reader, error) {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return nil, errors.New("this is no capture: it is not compressed by gzip")
	}
	c := &Reader{lines: bufio.NewScanner(zip)}
	c.lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	switch err := c.next(&c.Header); {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errors.New("the capture is cut off in its first line; copy it once more")
	case err != nil && !errors.Is(err, io.EOF):
		return nil, err
	case c.Format != Format:
		return nil, errors.New("this is no capture: its first line does not say so")
	case c.Version > Version:
		return nil, fmt.Errorf("the capture is of version %d, this program knows %d: take a newer one",
			c.Version, Version)
	}
	return c, nil
}

// Next returns the next entry, the one of kind end included; io.EOF after that. A file that ends
// before is an error.
func (c *Reader) Next() (*Entry, error) {
	if c.ended {
		// The checksum is behind the last line.
		if c.lines.Scan() || c.lines.Err() != nil {
			return nil, fmt.Errorf("line %d: the capture is damaged: it does not end at its end", c.line+1)
		}
		return nil, io.EOF
	}
	e := new(Entry)
	err := c.next(e)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("line %d: the capture is cut off: its end is missing; copy it once more", c.line+1)
	case err != nil:
		return nil, err
	}
	switch {
	case e.At < 0,
		e.Kind == KindRequest && e.Request == nil, e.Kind == KindFrame && e.Frame == nil,
		e.Kind == KindLink && e.Link == nil, e.Kind == KindEnd && e.End == nil:
		return nil, fmt.Errorf("line %d: no entry of a capture", c.line)
	}
	c.ended = e.Kind == KindEnd
	return e, nil
}

func (c *Reader) next(into any) error {
	if !c.lines.Scan() {
		switch err := c.lines.Err(); {
		case err == nil:
			return io.EOF
		case errors.Is(err, io.ErrUnexpectedEOF):
			return err
		default:
			return fmt.Errorf("line %d: %w", c.line+1, err)
		}
	}
	c.line++
	if err := json.Unmarshal(c.lines.Bytes(), into); err != nil {
		if !c.lines.Scan() && errors.Is(c.lines.Err(), io.ErrUnexpectedEOF) {
			return io.ErrUnexpectedEOF // half a line
		}
		return fmt.Errorf("line %d: %w", c.line, err)
	}
	return nil
}
