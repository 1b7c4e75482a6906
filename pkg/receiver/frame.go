package receiver

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"

	stomp "github.com/go-stomp/stomp/v3/frame"
)

// Header is one header of a frame, unescaped.
type Header struct{ Name, Value string }

// Headers are the headers of a frame in the order they were sent. Names are case-sensitive, and
// where one is repeated the first counts, as STOMP has it. Values are passed on as the HMC sent
// them, blanks and all; they are not checked to be valid UTF-8. The strings of one frame share
// their memory: clone one that is kept for long.
type Headers []Header

// Get returns the value of the named header, "" where there is none.
func (h Headers) Get(name string) string {
	value, _ := h.Lookup(name)
	return value
}

// Lookup returns the value of the named header and whether there is one.
func (h Headers) Lookup(name string) (string, bool) {
	for i := range h {
		if h[i].Name == name {
			return h[i].Value, true
		}
	}
	return "", false
}

// parseCommand returns a command that a server may send.
func parseCommand(line []byte) (command string, ok bool) {
	for _, command := range []string{stomp.MESSAGE, stomp.RECEIPT, stomp.ERROR, stomp.CONNECTED} {
		if string(line) == command {
			return command, true
		}
	}
	return "", false
}

// frame is one frame from the server. Its memory is its own.
type frame struct {
	command string
	headers Headers
	// nil when empty
	body []byte
	// size is that of headers and body in bytes.
	size int
}

// bufferSize is that of the read buffer, and how much memory is kept for the next header.
const bufferSize = 64 << 10

// frameReader reads frames within limits: a frame that exceeds one is an error before its bytes are
// kept, and no memory is set aside for bytes that are only announced. It is lenient where an HMC or
// a gateway may be sloppy and nothing can be misread: EOLs before and after a frame, CR LF line
// ends in any version, undefined escapes (kept as they are), header values that are not UTF-8. It
// is strict where the end of a frame would become a guess: an unknown command, a header line
// without colon or name, a bad content-length, no NUL at the end.
//
// The codec of go-stomp has no limits, allocates any announced content-length up to 4 GiB at once,
// and decodes escapes in the versions that have none; its Reader is the oracle of the tests.
type frameReader struct {
	src    *bufio.Reader
	limits Limits
	// escapes says whether header names and values are unescaped: not in STOMP 1.0, and in no
	// version before CONNECTED.
	escapes bool
	// carriageReturns adds the escape \r, which STOMP 1.2 has and 1.1 has not.
	carriageReturns bool

	// head is the present frame up to its body, and fields are the header lines in it.
	head   []byte
	fields []field
}

// field holds where in head a header line begins, its colon is and it ends.
type field struct{ name, colon, end int }

func newFrameReader(src io.Reader, limits Limits) *frameReader {
	return &frameReader{src: bufio.NewReaderSize(src, bufferSize), limits: limits}
}

// next returns the next frame. It returns io.EOF where the stream ends between frames,
// io.ErrUnexpectedEOF where it ends within one, and a *linkError for what is not STOMP or
// beyond a limit.
func (fr *frameReader) next() (frame, error) {
	var f frame
	if err := fr.skipEOLs(); err != nil {
		return f, err
	}
	err := fr.readHeaders(&f)
	if err != nil {
		return f, err
	}
	fr.parseHeaders(&f)
	if text, ok := f.headers.Lookup(stomp.ContentLength); ok {
		err = fr.readCounted(&f, text)
	} else {
		err = fr.readToNUL(&f)
	}
	f.size = len(fr.head) + len(f.body)
	if cap(fr.head) > bufferSize {
		fr.head = nil
	}
	return f, err
}

// skipEOLs consumes the EOLs between frames: heart-beats, and what brokers send after a frame's
// NUL.
func (fr *frameReader) skipEOLs() error {
	for {
		n := 1
		next, err := fr.src.Peek(n)
		if err == nil && next[0] == '\r' {
			n = 2
			next, err = fr.src.Peek(n) // the LF may still be under way
			err = unexpectedEOF(err)
		}
		if err != nil || next[n-1] != '\n' {
			return err // what is no EOL the command line will tell
		}
		_, _ = fr.src.Discard(n) // it is buffered
	}
}

// readHeaders reads the frame up to its body.
func (fr *frameReader) readHeaders(f *frame) error {
	fr.head, fr.fields = fr.head[:0], fr.fields[:0]
	begin, end, err := fr.line()
	if err != nil {
		return err
	}
	var ok bool
	if f.command, ok = parseCommand(fr.head[begin:end]); !ok {
		return protocolErrorf("not a STOMP frame: it begins with %.40q", fr.head[begin:end])
	}
	for {
		begin, end, err := fr.line()
		if err != nil || begin == end {
			return err
		}
		colon := bytes.IndexByte(fr.head[begin:end], ':')
		if colon <= 0 {
			return protocolErrorf("malformed header line %.40q", fr.head[begin:end])
		}
		if len(fr.fields) == fr.limits.HeaderCount {
			return protocolErrorf("frame of more than %d headers", fr.limits.HeaderCount)
		}
		fr.fields = append(fr.fields, field{begin, begin + colon, end})
	}
}

// line appends a line to head, and returns where it begins and, without CR and LF, ends.
func (fr *frameReader) line() (begin, end int, err error) {
	begin = len(fr.head)
	for {
		part, err := fr.src.ReadSlice('\n')
		fr.head = append(fr.head, part...)
		line := bytes.TrimSuffix(fr.head[begin:], []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\r"))
		switch {
		case len(line) > fr.limits.HeaderLine:
			return 0, 0, protocolErrorf("header line of more than %d bytes", fr.limits.HeaderLine)
		case err == nil:
			return begin, begin + len(line), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return 0, 0, unexpectedEOF(err)
		}
	}
}

// parseHeaders makes f.headers of fr.fields: one string for all of them, one slice of the exact
// size. Escapes are undone in head first, where a value only becomes shorter.
func (fr *frameReader) parseHeaders(f *frame) {
	if len(fr.fields) == 0 {
		return
	}
	start, end := fr.fields[0].name, fr.fields[len(fr.fields)-1].end
	for i := range fr.fields {
		p := &fr.fields[i]
		if !fr.escapes || bytes.IndexByte(fr.head[p.name:p.end], '\\') < 0 {
			continue
		}
		p.end = p.colon + 1 + fr.unescape(fr.head[p.colon+1:p.end])
		name := fr.head[p.name:p.colon]
		n := fr.unescape(name) // move it up to its colon
		copy(name[len(name)-n:], name[:n])
		p.name = p.colon - n
	}
	text := string(fr.head[start:end])
	f.headers = make(Headers, len(fr.fields))
	for i, p := range fr.fields {
		f.headers[i] = Header{text[p.name-start : p.colon-start], text[p.colon+1-start : p.end-start]}
	}
}

// unescape undoes the escapes of STOMP in place and returns the new length.
func (fr *frameReader) unescape(b []byte) int {
	n := bytes.IndexByte(b, '\\')
	if n < 0 {
		return len(b)
	}
	for i := n; i < len(b); i++ {
		c := b[i]
		if c == '\\' && i+1 < len(b) {
			switch e := b[i+1]; {
			case e == 'c':
				c = ':'
				i++
			case e == 'n':
				c = '\n'
				i++
			case e == '\\':
				i++
			case e == 'r' && fr.carriageReturns:
				c = '\r'
				i++
			}
		}
		b[n] = c
		n++
	}
	return n
}

// readCounted reads a body of the announced length and the NUL after it.
func (fr *frameReader) readCounted(f *frame, text string) error {
	length, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return protocolErrorf("malformed content-length %.40q", text)
	}
	if length > uint64(fr.limits.Body) {
		return protocolErrorf("body of %d bytes, more than %d", length, fr.limits.Body)
	}
	for rest := int(length); rest > 0; {
		if _, err := fr.src.Peek(1); err != nil {
			return unexpectedEOF(err)
		}
		part, _ := fr.src.Peek(min(rest, fr.src.Buffered()))
		f.body = grow(f.body, part, rest)
		rest -= len(part)
		_, _ = fr.src.Discard(len(part))
	}
	switch end, err := fr.src.ReadByte(); {
	case err != nil:
		return unexpectedEOF(err)
	case end != 0:
		return protocolErrorf("no NUL after a body of %d bytes", length)
	}
	return nil
}

// readToNUL reads a body without announced length, the normal case with an HMC.
func (fr *frameReader) readToNUL(f *frame) error {
	for {
		part, err := fr.src.ReadSlice(0)
		if err == nil {
			part = part[:len(part)-1]
		}
		if len(f.body)+len(part) > fr.limits.Body {
			return protocolErrorf("body of more than %d bytes", fr.limits.Body)
		}
		f.body = grow(f.body, part, len(part))
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return unexpectedEOF(err)
		}
	}
}

// grow appends part to body. A body that is complete in the buffer gets memory of its exact size;
// memory for one that is still expected (rest bytes including part) grows with what has arrived.
func grow(body, part []byte, rest int) []byte {
	switch {
	case len(part) == 0:
		return body
	case body == nil && len(part) == rest:
		body = make([]byte, len(part))
		copy(body, part)
		return body
	default:
		return append(body, part...)
	}
}

func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// appendFrame appends a frame without a body and without any escaping: CONNECT in every version,
// because STOMP exempts it (an escaped password would be a wrong one), and every frame in STOMP
// 1.0.
func appendFrame(dst []byte, command string, headers ...string) []byte {
	dst = append(append(dst, command...), '\n')
	for i := 0; i+1 < len(headers); i += 2 {
		dst = append(append(dst, headers[i]...), ':')
		dst = append(append(dst, headers[i+1]...), '\n')
	}
	return append(dst, '\n', 0)
}
