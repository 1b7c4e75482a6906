package hmcsim

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/go-stomp/stomp/v3/frame"
)

// Limits of the frames a client may send, ActiveMQ's defaults.
const (
	maxCommandLine = 1024
	maxHeaderLine  = 10 << 10
	maxHeaders     = 1000
	maxBody        = 100 << 20
)

// The STOMP versions ActiveMQ speaks, the best first.
const (
	version10 = "1.0"
	version11 = "1.1"
	version12 = "1.2"
)

// Header is one STOMP header, unescaped.
type Header struct{ Name, Value string }

// headerValue returns the value of the first header called name, or "".
func headerValue(headers []Header, name string) string {
	for i := range headers {
		if headers[i].Name == name {
			return headers[i].Value
		}
	}
	return ""
}

// protocolError is a client's mistake that ActiveMQ answers by an ERROR frame and the end of the
// connection.
type protocolError struct{ msg string }

func (e *protocolError) Error() string { return e.msg }

// frameReader reads a client's frames within ActiveMQ's limits, whatever their command. The
// decoding is go-stomp's; what it does not do is done before: the limits, unknown commands, and
// headers that are not escaped.
type frameReader struct {
	r   *bufio.Reader
	raw []byte // the frame being read, from its command to its NUL
}

func newFrameReader(r *bufio.Reader) *frameReader { return &frameReader{r: r} }

// read returns the next frame, or nil for a single EOL (a heart-beat). version is what was
// negotiated, "" before.
func (f *frameReader) read(version string) (*frame.Frame, error) {
	f.raw = f.raw[:0]
	if cap(f.raw) > 1<<20 {
		f.raw = nil
	}
	command, err := f.line(maxCommandLine, "The maximum command length was exceeded")
	if err != nil {
		return nil, err
	}
	if command == "" {
		return nil, nil //nolint:nilnil // an EOL between frames, as go-stomp's Reader reports it
	}
	headersAt := len(f.raw)
	contentLength := -1
	for n := 0; ; n++ {
		if n > maxHeaders {
			return nil, &protocolError{"The maximum number of headers was exceeded"}
		}
		lineAt := len(f.raw)
		line, err := f.line(maxHeaderLine, "The maximum header length was exceeded")
		if err != nil {
			return nil, err
		}
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		if name == "" || len(name) == len(line) {
			f.raw = f.raw[:lineAt] // not a header: ActiveMQ passes over it
			continue
		}
		if contentLength < 0 && name == frame.ContentLength {
			contentLength, err = strconv.Atoi(strings.TrimSpace(value))
			if err != nil || contentLength < 0 {
				return nil, &protocolError{"Specified content-length is not a valid integer"}
			}
		}
	}
	bodyAt := len(f.raw)
	if err := f.body(contentLength); err != nil {
		return nil, err
	}
	headers := f.raw[headersAt:bodyAt]
	if command == frame.CONNECT || command == frame.STOMP || version == version10 {
		// STOMP 1.2 forbids escaping in CONNECT, 1.0 has no escaping: a password with a
		// backslash must arrive as it was sent. go-stomp's reader always unescapes, so the
		// backslashes are doubled for it.
		headers = bytes.ReplaceAll(headers, []byte{'\\'}, []byte(`\\`))
	}
	// go-stomp's reader knows STOMP's commands only; the answer to another one needs its
	// headers too.
	fr, err := frame.NewReaderSize(io.MultiReader(strings.NewReader(frame.SEND+"\n"), bytes.NewReader(headers),
		bytes.NewReader(f.raw[bodyAt:])), 512).Read()
	if err != nil {
		return nil, &protocolError{err.Error()}
	}
	fr.Command = command
	return fr, nil
}

// line reads one line into raw and returns it without its end.
func (f *frameReader) line(limit int, tooLong string) (string, error) {
	start := len(f.raw)
	for {
		part, err := f.r.ReadSlice('\n')
		f.raw = append(f.raw, part...)
		if len(f.raw)-start > limit+2 {
			return "", &protocolError{tooLong}
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return "", err
		}
	}
	line := bytes.TrimSuffix(f.raw[start:len(f.raw)-1], []byte{'\r'})
	return string(line), nil
}

// body reads the body and its NUL into raw.
func (f *frameReader) body(contentLength int) error {
	const tooLong = "The maximum data length was exceeded"
	if contentLength > maxBody {
		return &protocolError{tooLong}
	}
	for n := 0; ; n++ {
		c, err := f.r.ReadByte()
		if err != nil {
			return err
		}
		f.raw = append(f.raw, c)
		switch {
		case c == 0 && (contentLength < 0 || n == contentLength):
			return nil
		case contentLength >= 0 && n == contentLength:
			return &protocolError{"content-length bytes were read and there was no trailing null byte"}
		case n >= maxBody:
			return &protocolError{tooLong}
		}
	}
}

// appendFrame encodes a frame as ActiveMQ writes it: names as they are, values escaped (from STOMP
// 1.1 on, without CR), no content-length, and a LF after the NUL.
func appendFrame(dst []byte, command string, headers []Header, body []byte, escape bool) []byte {
	dst = append(dst, command...)
	dst = append(dst, '\n')
	for i := range headers {
		dst = appendHeader(dst, headers[i].Name, headers[i].Value, escape)
	}
	dst = append(dst, '\n')
	dst = append(dst, body...)
	return append(dst, 0, '\n')
}

func appendHeader(dst []byte, name, value string, escape bool) []byte {
	dst = append(dst, name...)
	dst = append(dst, ':')
	if escape {
		dst = appendEscaped(dst, value)
	} else {
		dst = append(dst, value...)
	}
	return append(dst, '\n')
}

func appendEscaped(dst []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; c {
		case ':':
			dst = append(dst, '\\', 'c')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\\':
			dst = append(dst, '\\', '\\')
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// heartBeat parses the value of a heart-beat header.
func heartBeat(s string) (send, receive int, err error) {
	if s == "" {
		return 0, 0, nil
	}
	a, b, found := strings.Cut(s, ",")
	if !found {
		return 0, 0, fmt.Errorf("hmcsim: heart-beat %q", s)
	}
	if send, err = strconv.Atoi(strings.TrimSpace(a)); err != nil {
		return 0, 0, fmt.Errorf("hmcsim: heart-beat: %w", err)
	}
	if receive, err = strconv.Atoi(strings.TrimSpace(b)); err != nil {
		return 0, 0, fmt.Errorf("hmcsim: heart-beat: %w", err)
	}
	if send < 0 || receive < 0 {
		return 0, 0, fmt.Errorf("hmcsim: heart-beat %q", s)
	}
	return send, receive, nil
}
