package hmc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// What is taken of one answer, well above what the largest sites have.
const (
	MaxTopics     = 5_000
	MaxCPCs       = 1_000
	MaxPartitions = 20_000
	// MaxEntries is of log entries, OS messages and hardware messages.
	MaxEntries = 50_000
)

// TooManyError says that the HMC lists more of something than is taken. The result that comes with
// it has as many as are.
type TooManyError struct {
	What string
	// Taken is how many are.
	Taken int
}

// Error says what there is too much of.
func (e *TooManyError) Error() string {
	return fmt.Sprintf("the HMC lists more than the %d %s that are taken; those beyond are left out",
		e.Taken, e.What)
}

// beginning is what an answer goes into of which a beginning is of use as well.
type beginning interface {
	// decode reads the answer; cut says that it goes on.
	decode(data []byte, cut bool) error
}

// limited is an answer with a list of which no more than max elements are read. The others take no
// memory, however little each has in the answer.
type limited[T any] struct {
	member string // of the answer, that has the list
	what   string
	max    int
	items  []T
	more   bool
	// usable says whether an element names what it is; nil: each does. One that does not, or is no
	// object, is left out.
	usable func(*T) bool
	odd    int
}

func (l *limited[T]) decode(data []byte, cut bool) error {
	if !cut && !json.Valid(data) {
		return json.Unmarshal(data, new(json.RawMessage)) // which says what is wrong
	}
	d := json.NewDecoder(bytes.NewReader(data))
	err := l.read(d)
	if cut && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		l.more, err = true, nil
	}
	return err
}

func (l *limited[T]) read(d *json.Decoder) error {
	switch begin, err := d.Token(); {
	case err != nil:
		return err
	case begin != json.Delim('{'):
		return errors.New("no object where one is expected")
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		if name == l.member {
			if err = l.readItems(d); l.more {
				return nil
			}
		} else {
			err = d.Decode(new(json.RawMessage))
		}
		if err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

func (l *limited[T]) readItems(d *json.Decoder) error {
	l.items, l.odd = nil, 0 // where there are two, the last one counts
	switch begin, err := d.Token(); {
	case err != nil || begin == nil: // null
		return err
	case begin != json.Delim('['):
		return fmt.Errorf("no array of %s", l.what)
	}
	var raw json.RawMessage // reused
	for d.More() {
		if l.more = len(l.items) == l.max; l.more {
			return nil
		}
		if err := d.Decode(&raw); err != nil {
			return err
		}
		var item T
		err := json.Unmarshal(raw, &item)
		if err != nil {
			item, err = withoutOdd[T](raw, err)
		}
		if err != nil || l.usable != nil && !l.usable(&item) {
			l.odd++
			continue
		}
		l.items = append(l.items, item)
	}
	_, err := d.Token()
	return err
}

// withoutOdd reads an object again of which a property is of another type than the documented one,
// as err says: that is taken for absent. (What was read is of no use: a pointer is set before its
// value is found not to fit.)
func withoutOdd[T any](object []byte, err error) (item T, _ error) {
	if odd, ok := errors.AsType[*json.UnmarshalTypeError](err); !ok || odd.Field == "" {
		return item, err
	}
	var properties map[string]json.RawMessage
	if err := json.Unmarshal(object, &properties); err != nil {
		return item, err
	}
	for name, value := range properties {
		alone, err := json.Marshal(map[string]json.RawMessage{name: value})
		if err == nil && json.Unmarshal(alone, new(T)) == nil {
			_ = json.Unmarshal(alone, &item)
		}
	}
	return item, nil
}

// list returns the elements, with a TooManyError where there are more of them, or with an
// AnswerError where some could not be read.
func (l *limited[T]) list(err error) ([]T, error) {
	switch {
	case err == nil && l.more:
		err = &TooManyError{l.what, len(l.items)}
	case err == nil && l.odd > 0:
		err = &AnswerError{Status: http.StatusOK, Problem: fmt.Sprintf(
			"of the %s in the answer %d are not as it is documented, and are left out", l.what, l.odd)}
	}
	return l.items, err
}
