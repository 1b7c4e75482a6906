package receiver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
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

// The headers the receiver looks at itself.
const (
	headerContentLength = "content-length"
	headerDestination   = "destination"
	headerHeartBeat     = "heart-beat"
	headerID            = "id"
	headerMessage       = "message"
	headerReceipt       = "receipt"
	headerReceiptID     = "receipt-id"
	headerSubscription  = "subscription"
	headerVersion       = "version"
)

// command is a command a server may send.
type command uint8

const (
	commandMessage command = iota + 1
	commandReceipt
	commandError
	commandConnected
)

var commandNames = [...]string{
	commandMessage: "MESSAGE", commandReceipt: "RECEIPT", commandError: "ERROR", commandConnected: "CONNECTED",
}

func parseCommand(line []byte) (command, bool) {
	switch string(line) {
	case "MESSAGE":
		return commandMessage, true
	case "RECEIPT":
		return commandReceipt, true
	case "ERROR":
		return commandError, true
	case "CONNECTED":
		return commandConnected, true
	}
	return 0, false
}

// frame is one frame from the server. Its memory is its own.
type frame struct {
	command command
	headers Headers
	// nil when empty
	body []byte
	// size is that of headers and body in bytes, charged what frameReader.charge made room
	// for.
	size, charged int
	skipped       bool // for want of room, body is nil
}

// The read buffer starts at bufferSize and is compacted when less than minRead bytes are free: a
// TLS record holds up to 16 KiB, and crypto/tls hands out one at a time.
const (
	bufferSize = 64 << 10
	minRead    = 16 << 10
)

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
	src    io.Reader
	limits Limits
	// escapes says whether header names and values are unescaped: not in STOMP 1.0, and in no
	// version before CONNECTED.
	escapes bool
	// carriageReturns adds the escape \r, which STOMP 1.2 has and 1.1 has not.
	carriageReturns bool
	// charge makes room for more of a body larger than the buffer; nil: there is room.
	charge func(bytes int) bool
	// hide takes secrets out of what an error quotes; nil: there are none.
	hide func(string) string

	buf []byte
	// buf[r:w] is read and not yet consumed.
	r, w   int
	fields []field
}

// field holds where a header line begins, its colon is and it ends, counted from the start of the
// frame.
type field struct{ name, colon, end int }

func newFrameReader(src io.Reader, limits Limits) *frameReader {
	return &frameReader{src: src, limits: limits, buf: make([]byte, bufferSize)}
}

// next returns the next frame. It returns io.EOF where the stream ends between frames,
// io.ErrUnexpectedEOF where it ends within one, and a *linkError for what is not STOMP or
// beyond a limit.
func (fr *frameReader) next() (frame, error) {
	var f frame
	if err := fr.skipEOLs(); err != nil {
		return f, err
	}
	start, end, err := fr.readHeaders(&f)
	if err != nil {
		return f, err
	}
	fr.parseHeaders(&f, start)
	f.size = end
	fr.r += end
	if text, ok := f.headers.Lookup(headerContentLength); ok {
		err = fr.readCounted(&f, text)
	} else {
		err = fr.readToNUL(&f)
	}
	f.size += len(f.body)
	if len(fr.buf) > bufferSize && fr.w-fr.r <= bufferSize {
		rest := fr.buf[fr.r:fr.w]
		fr.buf = make([]byte, bufferSize)
		fr.r, fr.w = 0, copy(fr.buf, rest)
	}
	return f, err
}

// skipEOLs consumes the EOLs between frames: heart-beats, and what brokers send after a frame's
// NUL.
func (fr *frameReader) skipEOLs() error {
	for {
		for fr.r < fr.w {
			switch {
			case fr.buf[fr.r] == '\n':
				fr.r++
				continue
			case fr.buf[fr.r] != '\r':
				return nil
			case fr.r+1 == fr.w: // the LF may still be under way
			case fr.buf[fr.r+1] == '\n':
				fr.r += 2
				continue
			default:
				return nil // not an EOL: the command line will say so
			}
			break
		}
		partial := fr.r < fr.w
		if err := fr.fill(); err != nil {
			if partial {
				return unexpectedEOF(err)
			}
			return err
		}
	}
}

// readHeaders gets the whole header block into the buffer and records its lines in fr.fields. It
// returns where the first header line begins and where the body begins.
func (fr *frameReader) readHeaders(f *frame) (start, end int, err error) {
	line, next, err := fr.line(0)
	if err != nil {
		return 0, 0, err
	}
	var ok bool
	if f.command, ok = parseCommand(line); !ok {
		return 0, 0, protocolErrorf("not a STOMP frame: it begins with %s", fr.quote(string(line)))
	}
	start = next
	fr.fields = fr.fields[:0]
	for {
		at := next
		line, next, err = fr.line(at)
		if err == nil && next > fr.limits.Headers {
			err = protocolErrorf("frame of more than %d bytes of headers", fr.limits.Headers)
		}
		if err != nil {
			return 0, 0, err
		}
		if len(line) == 0 {
			return start, next, nil
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 {
			return 0, 0, protocolErrorf("malformed header line %s", fr.quote(string(line)))
		}
		if len(fr.fields) == fr.limits.HeaderCount {
			return 0, 0, protocolErrorf("frame of more than %d headers", fr.limits.HeaderCount)
		}
		fr.fields = append(fr.fields, field{at, at + colon, at + len(line)})
	}
}

// line returns the line that begins at the offset at from the frame's start, without its end, and
// the offset of the next one.
func (fr *frameReader) line(at int) (line []byte, next int, err error) {
	searched := at
	for {
		if i := bytes.IndexByte(fr.buf[fr.r+searched:fr.w], '\n'); i >= 0 {
			next = searched + i + 1
			break
		}
		searched = fr.w - fr.r
		if searched-at > fr.limits.HeaderLine+len("\r") {
			return nil, 0, protocolErrorf("header line of more than %d bytes", fr.limits.HeaderLine)
		}
		if err := fr.fill(); err != nil {
			return nil, 0, unexpectedEOF(err)
		}
	}
	line = fr.buf[fr.r+at : fr.r+next-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	if len(line) > fr.limits.HeaderLine {
		return nil, 0, protocolErrorf("header line of more than %d bytes", fr.limits.HeaderLine)
	}
	return line, next, nil
}

// quote returns the beginning of what the peer sent, without secrets.
func (fr *frameReader) quote(text string) string {
	if fr.hide != nil {
		text = fr.hide(text)
	}
	return fmt.Sprintf("%.40q", text)
}

// parseHeaders makes f.headers of fr.fields: one string for all of them, one slice of the exact
// size. Escapes are undone in the buffer first, where a value only becomes shorter.
func (fr *frameReader) parseHeaders(f *frame, start int) {
	if len(fr.fields) == 0 {
		return
	}
	end := fr.fields[len(fr.fields)-1].end
	block := fr.buf[fr.r+start : fr.r+end]
	nextEscape := -1
	if fr.escapes {
		nextEscape = bytes.IndexByte(block, '\\')
	}
	// From here on, offsets count from the first header line.
	for i := range fr.fields {
		p := &fr.fields[i]
		p.name, p.colon, p.end = p.name-start, p.colon-start, p.end-start
		if nextEscape < 0 || nextEscape >= p.end {
			continue
		}
		lineEnd := p.end
		p.end = p.colon + 1 + fr.unescape(block[p.colon+1:p.end])
		name := block[p.name:p.colon]
		if n := fr.unescape(name); n < len(name) { // move it up to its colon
			copy(name[len(name)-n:], name[:n])
			p.name = p.colon - n
		}
		if nextEscape = bytes.IndexByte(block[lineEnd:], '\\'); nextEscape >= 0 {
			nextEscape += lineEnd
		}
	}
	text := string(block)
	f.headers = make(Headers, len(fr.fields))
	for i, p := range fr.fields {
		f.headers[i] = Header{text[p.name:p.colon], text[p.colon+1 : p.end]}
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
		return protocolErrorf("malformed content-length %s", fr.quote(text))
	}
	if length > uint64(fr.limits.Body) {
		return protocolErrorf("body of %d bytes, more than %d", length, fr.limits.Body)
	}
	rest := int(length)
	for {
		n := min(rest, fr.w-fr.r)
		fr.keep(f, fr.buf[fr.r:fr.r+n], rest)
		fr.r += n
		rest -= n
		if rest == 0 && fr.r < fr.w {
			break
		}
		if err := fr.fill(); err != nil {
			return unexpectedEOF(err)
		}
	}
	if fr.buf[fr.r] != 0 {
		return protocolErrorf("no NUL after a body of %d bytes", length)
	}
	fr.r++
	return nil
}

// readToNUL reads a body without announced length, the normal case with an HMC.
func (fr *frameReader) readToNUL(f *frame) error {
	for length := 0; ; {
		found := true
		n := bytes.IndexByte(fr.buf[fr.r:fr.w], 0)
		if n < 0 {
			found, n = false, fr.w-fr.r
		}
		if length += n; length > fr.limits.Body {
			return protocolErrorf("body of more than %d bytes", fr.limits.Body)
		}
		fr.keep(f, fr.buf[fr.r:fr.r+n], n)
		fr.r += n
		if found {
			fr.r++
			return nil
		}
		if err := fr.fill(); err != nil {
			return unexpectedEOF(err)
		}
	}
}

// keep appends part to the body, if there is room. For one that does not fit into the buffer all is
// taken at once: of readers that each wait for the rest of theirs none would get it.
func (fr *frameReader) keep(f *frame, part []byte, rest int) {
	if fr.charge != nil && f.charged == 0 && !f.skipped && len(f.body)+len(part) > bufferSize {
		if f.skipped = !fr.charge(fr.limits.Body); f.skipped {
			f.body = nil
		} else {
			f.charged = fr.limits.Body
		}
	}
	if !f.skipped {
		f.body = grow(f.body, part, rest)
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

// fill reads once from the source into the buffer and makes room for that first.
func (fr *frameReader) fill() error {
	switch {
	case fr.r == fr.w:
		fr.r, fr.w = 0, 0
	case fr.r > 0 && len(fr.buf)-fr.w < minRead:
		fr.w = copy(fr.buf, fr.buf[fr.r:fr.w])
		fr.r = 0
	}
	if fr.w == len(fr.buf) {
		bigger := make([]byte, 2*len(fr.buf))
		copy(bigger, fr.buf[:fr.w])
		fr.buf = bigger
	}
	// As bufio: a reader that returns nothing for ever is broken.
	for range 100 {
		n, err := fr.src.Read(fr.buf[fr.w:])
		fr.w += n
		if n > 0 {
			return nil // err comes again
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
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
