package hmc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// What an HMC still holds of what it has published: the operations that fetch it.

// ListOSMessages lists the operating system messages that the HMC holds of a partition, from the
// sequence number begin on, or all if that is negative. Each element is one os-message-info object
// as it stands, valid JSON, the oldest first; the elements share memory. The HMC holds a limited
// number of messages per partition and drops the oldest first.
//
// A partition that offers no messages now is refused (409 with ReasonChannelUnavailable). It needs
// object access to the partition (else 404) and the task "Operating System Messages". An answer
// without any content was seen on real HMCs: it means that there are no messages. One that is not
// JSON is an *AnswerError: nobody knows what it held.
func (s *Session) ListOSMessages(ctx context.Context, objectURI string, begin int64) ([][]byte, error) {
	if !isPartition(objectURI) {
		return nil, fmt.Errorf("list OS messages: %q is not the URI of a partition", objectURI)
	}
	query := make(url.Values)
	if begin >= 0 {
		query.Set("begin-sequence-number", strconv.FormatInt(begin, 10))
	}
	uri := objectURI + "/operations/list-os-messages"
	answer, err := s.getList(ctx, opListOSMessages, uri, query, list{member: "os-messages"})
	return answer.elements, err
}

// GetAuditLog returns the entries of the console's audit log from begin to end, both inclusive and
// in milliseconds of the HMC's clock; the zero time is no bound. Each element is one entry as it
// stands, valid JSON; the elements share memory. They come in no particular order. It needs the
// task "Audit and Log Management" (else 403 with reason 1).
//
// An answer beyond 32 MiB, or of more than MaxEntries, is an *AnswerError with TooLong set: then a
// shorter time has to be asked for.
func (s *Session) GetAuditLog(ctx context.Context, begin, end time.Time) ([][]byte, error) {
	return s.getLog(ctx, opGetAuditLog, begin, end)
}

// GetSecurityLog is what GetAuditLog is, for the security log. It needs the task "View Security
// Logs".
func (s *Session) GetSecurityLog(ctx context.Context, begin, end time.Time) ([][]byte, error) {
	return s.getLog(ctx, opGetSecurityLog, begin, end)
}

func (s *Session) getLog(ctx context.Context, operation string, begin, end time.Time) ([][]byte, error) {
	answer, err := s.getList(ctx, operation, "/api/console/operations/"+operation, timesOf(begin, end), list{})
	return answer.elements, err
}

// timesOf is the query for what lies between two times; the zero time is no bound.
func timesOf(begin, end time.Time) url.Values {
	query := make(url.Values)
	if !begin.IsZero() {
		query.Set("begin-time", strconv.FormatInt(begin.UnixMilli(), 10))
	}
	if !end.IsZero() {
		query.Set("end-time", strconv.FormatInt(end.UnixMilli(), 10))
	}
	return query
}

// getList fetches a list that may be long, of which answer says what it is.
func (s *Session) getList(ctx context.Context, operation, uri string, query url.Values, answer list) (list, error) {
	err := s.c.do(ctx, s.call(&call{
		operation: operation, method: http.MethodGet, uri: uri, query: query.Encode(), into: &answer, long: true,
	}))
	return answer, err
}

// list is an answer that lists objects. Documented are an object that has the array as its member,
// and a bare array.
type list struct {
	// member is the name of the array; "": the only array is meant, whatever its name.
	member   string
	elements [][]byte
	// whole says that the answer has content, and does not say that a part of it could not be
	// had.
	whole bool
	// partly takes what can be read of an answer with elements that are no objects: it is not
	// whole then.
	partly bool
}

var errTooMany = fmt.Errorf("the answer has more than %d entries", MaxEntries)

// decode reads the answer. Its elements are parts of data. No content is an empty list.
func (l *list) decode(data []byte) error {
	if data = bytes.Trim(data, " \t\r\n"); len(data) == 0 {
		return nil
	}
	if !json.Valid(data) {
		return json.Unmarshal(data, new(json.RawMessage)) // which says what is wrong
	}
	l.whole = !bytes.Contains(data, []byte(`"@@implementation-errors"`))
	switch data[0] {
	case '[':
	case '{':
		if data = l.find(data); data == nil {
			return errors.New("not exactly one array where one is expected")
		}
	default:
		return errors.New("no array where one is expected")
	}
	for _, element := range values(data) {
		if len(l.elements) == MaxEntries {
			return errTooMany
		}
		switch {
		case element[0] == '{':
			l.elements = append(l.elements, element)
		case l.partly:
			l.whole = false
		default:
			return errors.New("an element of the array is not an object")
		}
	}
	return nil
}

// find returns the array in a valid object: that with the documented name, or else the only one.
// nil: there is none, or no telling which. "@@implementation-errors" may come with any answer, and
// may be an array.
func (l *list) find(object []byte) (found []byte) {
	arrays := 0
	for name, value := range values(object) {
		switch {
		case value[0] != '[' || strings.HasPrefix(name, `"@@`):
			continue
		case name == strconv.Quote(l.member):
			return value
		}
		found = value
		arrays++
	}
	if arrays != 1 {
		return nil
	}
	return found
}

// values ranges over the elements of a valid array, or the members of a valid object with their
// quoted names, as they stand: they are parts of data.
func values(data []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		d := json.NewDecoder(bytes.NewReader(data))
		begin, _ := d.Token()
		name, value := "", json.RawMessage(nil)
		for d.More() {
			if begin == json.Delim('{') {
				before := d.InputOffset()
				_, _ = d.Token()
				name = strings.TrimLeft(string(data[before:d.InputOffset()]), ", \t\r\n")
			}
			if d.Decode(&value) != nil {
				return
			}
			end := d.InputOffset()
			if !yield(name, data[end-int64(len(value)):end:end]) {
				return
			}
		}
	}
}
