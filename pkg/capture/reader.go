package capture

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	// longest is for how long a capture may last: it is asked for 24 hours at most.
	longest = 48 * time.Hour
	// maxHeaders and maxText bound the headers of a frame, as those that are received: how many,
	// and the length of each in bytes; maxWord what is a word of the program.
	maxHeaders, maxText, maxWord = 1000, 64 << 10, 100
)

// Reader reads a capture. All that it returns was checked; an error is one line that names the
// file, the line and the remedy.
type Reader struct {
	Header

	name string
	file *os.File // nil: it is somebody else's
	// stopped says that the reading has to end.
	stopped func() error
	lines   *bufio.Scanner
	line    int
	ended   bool
	last    int64 // Entry.At
	// counts are of what was read.
	counts End
}

// Open opens a file that has to be a capture, and reads its first line. When ctx is done, the
// reading ends. Close must be called.
func Open(ctx context.Context, name string) (*Reader, error) {
	// A pipe does not hold up the opening.
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", name, Cause(err))
	}
	c := &Reader{name: name, file: file, stopped: ctx.Err}
	info, err := file.Stat()
	switch {
	case err != nil:
		err = fmt.Errorf("%s cannot be read: %w", name, Cause(err))
	case info.IsDir():
		err = fmt.Errorf("%s is a directory: name a file in it that hmcnotifyd capture has written", name)
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is no regular file: write what comes from it into one first", name)
	default:
		err = c.begin(file)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return c, nil
}

// NewReader reads the first line of a capture that is no file.
func NewReader(r io.Reader) (*Reader, error) {
	c := &Reader{name: "this", stopped: func() error { return nil }}
	return c, c.begin(r)
}

// Again begins anew, with the same file.
func (c *Reader) Again() error {
	if _, err := c.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("%s cannot be read: %w", c.name, Cause(err))
	}
	again := Reader{name: c.name, file: c.file, stopped: c.stopped}
	err := again.begin(c.file)
	*c = again
	return err
}

// Close closes the file.
func (c *Reader) Close() error { return c.file.Close() }

// reading is r for as long as the reading may go on.
func (c *Reader) reading(r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := c.stopped(); err != nil {
			return 0, err
		}
		return r.Read(p)
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Cause is what the system says of a file, without what was tried and with which one.
func Cause(err error) error {
	if of, ok := errors.AsType[*fs.PathError](err); ok {
		return of.Err
	}
	if of, ok := errors.AsType[*os.LinkError](err); ok {
		return of.Err
	}
	return err
}

func (c *Reader) begin(r io.Reader) error {
	zip, err := gzip.NewReader(c.reading(r))
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%s is not a capture of hmcnotifyd: it is empty", c.name)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum):
		return fmt.Errorf("%s is not a capture of hmcnotifyd: it is not compressed by gzip", c.name)
	default:
		return c.unreadable(err)
	}
	c.lines = bufio.NewScanner(zip)
	c.lines.Buffer(make([]byte, 0, 64<<10), MaxLine+1)
	var header Header
	switch err := c.next(&header); {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s is cut off in its first line: copy it once more", c.name)
	case header.Format != Format && (c.line > 0 || errors.Is(err, io.EOF)): // a line, or none at all
		return fmt.Errorf("%s is not a capture of hmcnotifyd: its first line does not say so", c.name)
	case errors.Is(err, errNotJSON):
		return c.damaged("%v", err)
	case err != nil:
		return err
	case header.Version > Version:
		return fmt.Errorf("%s is of version %d, and this program knows captures up to version %d: "+
			"take a newer hmcnotifyd", c.name, header.Version, Version)
	case header.Version < 1:
		return c.damaged("its version is %d, and the first one was 1", header.Version)
	case header.Began.Year() < 1970 || header.Began.Year() > 9999:
		return c.damaged("it does not say when it began")
	case len(header.Program) > maxWord:
		return c.damaged("what it says of its program is none")
	}
	c.Header = header
	return nil
}

// Next returns the next entry, the one of kind end included; io.EOF after that. A file that ends
// before is an error.
func (c *Reader) Next() (*Entry, error) {
	if c.ended {
		// The checksum is behind the last line.
		if c.lines.Scan() {
			return nil, c.damaged("it goes on behind its end")
		}
		if err := c.lines.Err(); err != nil {
			return nil, c.unreadable(err)
		}
		return nil, io.EOF
	}
	e := new(Entry)
	switch err := c.next(e); {
	case errors.Is(err, errNotJSON):
		return nil, c.damaged("%v", err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%s: line %d: it is cut off, its end is missing: copy it once more", c.name, c.line+1)
	case err != nil:
		return nil, err
	}
	if fault := e.fault(); fault != "" {
		return nil, c.damaged("%s", fault)
	}
	if e.At < c.last {
		return nil, c.damaged("at_us is %d, and was %d before", e.At, c.last)
	}
	c.last = e.At
	c.counts.count(e)
	if e.Kind == KindEnd {
		if e.End.Requests != c.counts.Requests || e.End.Frames != c.counts.Frames {
			return nil, c.damaged("its end says %d requests and %d frames, and there are %d and %d",
				e.End.Requests, e.End.Frames, c.counts.Requests, c.counts.Frames)
		}
		c.ended = true
	}
	return e, nil
}

// text is the line that Next has read last, until it is called again.
func (c *Reader) text() []byte { return c.lines.Bytes() }

// errNotJSON is what next returns of a line that is none.
var errNotJSON = errors.New("it is not JSON")

// next reads a line. io.EOF, io.ErrUnexpectedEOF and errNotJSON are returned as they are.
func (c *Reader) next(into any) error {
	if !c.lines.Scan() {
		if c.lines.Err() == nil {
			return io.EOF
		}
		return c.unreadable(c.lines.Err())
	}
	c.line++
	err := json.Unmarshal(c.lines.Bytes(), into)
	if err == nil {
		return nil
	}
	wrong, isType := errors.AsType[*json.UnmarshalTypeError](err)
	fault, isFault := errors.AsType[lineFault](err)
	switch {
	case isType:
		kind, _, _ := strings.Cut(wrong.Value, " ")
		return c.damaged("%s cannot be that %s", cmp.Or(wrong.Field, "a line"), kind)
	case isFault:
		return c.damaged("%s", string(fault))
	case !c.lines.Scan() && c.lines.Err() != nil: // half a line
		c.line--
		return c.unreadable(c.lines.Err())
	}
	return errNotJSON
}

// damaged is the error of a line that no program has written.
func (c *Reader) damaged(format string, args ...any) error {
	return damaged(c.name, c.line, fmt.Sprintf(format, args...))
}

func damaged(name string, line int, why string) error {
	return fmt.Errorf("%s: line %d: %s: it was changed or damaged; copy it once more from where it was made",
		name, line, why)
}

// unreadable is the error of what could not be read.
func (c *Reader) unreadable(err error) error {
	_, isPath := errors.AsType[*fs.PathError](err)
	switch {
	case c.stopped() != nil:
		return fmt.Errorf("%s: interrupted", c.name)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("%s: line %d is longer than %d MiB: no hmcnotifyd writes such a capture",
			c.name, c.line+1, MaxLine>>20)
	case isPath:
		return fmt.Errorf("%s cannot be read: %w", c.name, Cause(err))
	}
	return damaged(c.name, c.line+1, "it cannot be decompressed") // or the checksum is wrong
}

// lineFault is what is wrong with a part of a line.
type lineFault string

func (f lineFault) Error() string { return string(f) }

// UnmarshalJSON reads headers, and no more than a frame has.
func (p *Pairs) UnmarshalJSON(text []byte) error {
	const maxPair = 2 * maxText * len(`\u0000`)
	wrong := lineFault("the headers of a frame are not pairs of texts")
	*p = nil
	if string(text) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if first, err := d.Token(); err != nil || first != json.Delim('[') {
		return wrong
	}
	for d.More() {
		var pair json.RawMessage
		var both []string
		switch {
		case len(*p) == maxHeaders:
			return lineFault(fmt.Sprintf("a frame has more than %d headers", maxHeaders))
		case d.Decode(&pair) != nil, len(pair) > maxPair, json.Unmarshal(pair, &both) != nil, len(both) != 2:
			return wrong
		}
		*p = append(*p, [2]string(both))
	}
	return nil
}

// fault says what is wrong with an entry; "": nothing.
func (e *Entry) fault() string {
	if e.At < 0 || e.Time() > longest || e.Time() < 0 {
		return fmt.Sprintf("at_us is %d, and a capture takes two days at most", e.At)
	}
	own, members := false, 0
	for _, member := range []struct {
		kind  string
		there bool
	}{
		{KindRequest, e.Request != nil},
		{KindFrame, e.Frame != nil},
		{KindLink, e.Link != nil},
		{KindEnd, e.End != nil},
	} {
		if member.there {
			members++
			own = own || e.Kind == member.kind
		}
	}
	if !own || members != 1 {
		return fmt.Sprintf("it is no entry of a capture: its kind is %.20q, "+
			"and the member of that name has to be there, and no other one", e.Kind)
	}
	switch e.Kind {
	case KindRequest:
		return e.Request.fault()
	case KindFrame:
		return e.Frame.fault()
	case KindLink:
		if len(e.Link.Lost) > maxWord {
			return "why the link has ended is not a word"
		}
	case KindEnd:
		if min(e.End.Requests, e.End.Frames, e.End.Omitted, e.End.Words) < 0 {
			return "one of its counts is negative"
		}
	}
	return ""
}

func (r *Request) fault() string {
	const lowest, highest = 100, 999
	switch {
	case max(len(r.Operation), len(r.Method), len(r.Failure)) > maxWord,
		max(len(r.Headers.ContentType), len(r.Headers.RetryAfter)) > maxWord:
		return "a member of the request is too long"
	case max(len(r.URI), len(r.Query)) > maxText:
		return "the URI of the request is too long"
	case r.Took < 0:
		return fmt.Sprintf("took_us is %d", r.Took)
	case r.Status != 0 && (r.Status < lowest || r.Status > highest):
		return fmt.Sprintf("%d is no status of HTTP", r.Status)
	}
	return cmp.Or(r.Sent.fault(), r.Answer.fault())
}

func (f *Frame) fault() string {
	if f.Command == "" || len(f.Command) > maxWord {
		return "the frame has no command"
	}
	if len(f.Headers) > maxHeaders {
		return fmt.Sprintf("the frame has more than %d headers", maxHeaders)
	}
	for _, h := range f.Headers {
		if max(len(h[0]), len(h[1])) > maxText {
			return "a header of the frame is too long"
		}
	}
	return f.Body.fault()
}

func (c *Content) fault() string {
	forms := 0
	for _, there := range []bool{c.JSON != nil, c.Text != "", c.Bytes != nil, c.Omitted != 0} {
		if there {
			forms++
		}
	}
	if forms > 1 || c.Omitted < 0 {
		return "a body has more than one of json, text, bytes and omitted"
	}
	return ""
}
