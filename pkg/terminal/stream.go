package terminal

import (
	"bufio"
	"bytes"
	"io"
)

// maxStreamLine is how long a line of a stream may be: more than the daemon holds for one reader.
const maxStreamLine = 8 << 20

// Sent is one server-sent event.
type Sent struct {
	// Kind is "" for one that says none; ID that of the last one that had any.
	Kind, ID string
	Data     []byte
}

// ReadStream reads server-sent events and calls each for those with data, until the stream ends or
// each fails. It calls alive for whatever comes, and begins with the id of the last event before.
func ReadStream(in io.Reader, id string, alive func(), each func(Sent) error) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxStreamLine)
	s := Sent{ID: id}
	for lines.Scan() {
		alive()
		line := lines.Bytes()
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case len(line) == 0: // the end of an event
			if s.Data != nil {
				if err := each(s); err != nil {
					return err
				}
			}
			s.Kind, s.Data = "", nil
		case string(field) == "event":
			s.Kind = string(value)
		case string(field) == "id":
			s.ID = string(value)
		case string(field) == "data":
			s.Data = append(make([]byte, 0, len(value)), value...)
		}
	}
	return lines.Err()
}
