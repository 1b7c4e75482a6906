package hmc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
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
		return nil, fmt.Errorf("hmc: list OS messages: %q is not the URI of a partition", objectURI)
	}
	query := make(url.Values)
	if begin >= 0 {
		query.Set("begin-sequence-number", strconv.FormatInt(begin, 10))
	}
	answer, err := s.getList(ctx, opListOSMessages, objectURI+"/operations/list-os-messages", query, "os-messages")
	return answer.elements, err
}

// GetAuditLog returns the entries of the console's audit log from begin to end, both inclusive and
// in milliseconds of the HMC's clock; the zero time is no bound. Each element is one entry as it
// stands, valid JSON; the elements share memory. They come in no particular order. It needs the
// task "Audit and Log Management" (else 403 with reason 1).
//
// An answer beyond 32 MiB, which is more than 50,000 entries of the usual size, is an *AnswerError
// with TooLong set: then a shorter time has to be asked for.
func (s *Session) GetAuditLog(ctx context.Context, begin, end time.Time) ([][]byte, error) {
	return s.getLog(ctx, opGetAuditLog, begin, end)
}

// GetSecurityLog is what GetAuditLog is, for the security log. It needs the task "View Security
// Logs".
func (s *Session) GetSecurityLog(ctx context.Context, begin, end time.Time) ([][]byte, error) {
	return s.getLog(ctx, opGetSecurityLog, begin, end)
}

func (s *Session) getLog(ctx context.Context, operation string, begin, end time.Time) ([][]byte, error) {
	answer, err := s.getList(ctx, operation, "/api/console/operations/"+operation, timesOf(begin, end), "")
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

// getList fetches a list that may be long. member is the name of the array, see list.
func (s *Session) getList(ctx context.Context, operation, uri string, query url.Values, member string) (list, error) {
	answer := list{member: member}
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
}

// decode reads the answer. Its elements are parts of data. No content is an empty list.
func (l *list) decode(data []byte) error {
	i := skipSpace(data, 0)
	if i == len(data) {
		return nil
	}
	if !json.Valid(data) {
		return json.Unmarshal(data, new(json.RawMessage)) // which says what is wrong
	}
	l.whole = !bytes.Contains(data, []byte(`"@@implementation-errors"`))
	// From here on each index is within data: valid JSON ends with a bracket of its own.
	switch data[i] {
	case '[':
	case '{':
		if i = l.find(data, i); i < 0 {
			return errors.New("not exactly one array where one is expected")
		}
	default:
		return errors.New("no array where one is expected")
	}
	for i = skipSpace(data, i+1); data[i] != ']'; {
		if data[i] != '{' {
			return errors.New("an element of the array is not an object")
		}
		end := skipValue(data, i)
		l.elements = append(l.elements, data[i:end:end])
		if i = skipSpace(data, end); data[i] == ',' {
			i = skipSpace(data, i+1)
		}
	}
	return nil
}

// find returns the index of the array in the valid object that begins at i: of that with the
// documented name, or else of the only one. -1: there is none, or no telling which.
// "@@implementation-errors" may come with any answer, and may be an array.
func (l *list) find(data []byte, i int) int {
	found, arrays := -1, 0
	for i = skipSpace(data, i+1); data[i] != '}'; {
		end := skipValue(data, i)
		name := data[i+1 : end-1]
		i = skipSpace(data, skipSpace(data, end)+1) // behind the colon
		if data[i] == '[' && !bytes.HasPrefix(name, []byte("@@")) {
			if l.member != "" && string(name) == l.member {
				return i
			}
			found = i
			arrays++
		}
		if i = skipSpace(data, skipValue(data, i)); data[i] == ',' {
			i = skipSpace(data, i+1)
		}
	}
	if arrays != 1 {
		return -1
	}
	return found
}

// skipSpace returns the index of what is not white space, from i on.
func skipSpace(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\t' || data[i] == '\r') {
		i++
	}
	return i
}

// skipValue returns the index behind the valid value that begins at i and is within an object or
// array.
func skipValue(data []byte, i int) int {
	for depth := 0; ; i++ {
		switch data[i] {
		case '"':
			for i++; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			continue
		case '}', ']':
			depth--
		default:
			if depth > 0 || !endsLiteral(data[i+1]) {
				continue
			}
		}
		if depth == 0 {
			return i + 1
		}
	}
}

// endsLiteral says whether a byte is the first one behind a number, or true, false or null, within
// an object or array.
func endsLiteral(c byte) bool {
	switch c {
	case ',', '}', ']', ' ', '\n', '\t', '\r':
		return true
	}
	return false
}
