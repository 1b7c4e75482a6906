package hmc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// What an HMC still holds of what it has published: the operations that fetch it.

// ListOSMessages lists the operating system messages that the HMC holds of a partition, from the sequence number begin on, or
// all if that is negative. Each element is one os-message-info object as it stands, valid JSON, the oldest first; the elements
// share memory. The HMC holds a limited number of messages per partition and drops the oldest first.
//
// A partition that offers no messages now is refused (409 with ReasonChannelUnavailable). It needs object access to the
// partition (else 404) and the task "Operating System Messages". An answer without any content was seen on real HMCs: it
// means that there are no messages.
func (s *Session) ListOSMessages(ctx context.Context, objectURI string, begin int64) ([][]byte, error) {
	if !isPartition(objectURI) {
		return nil, fmt.Errorf("hmc: list OS messages: %q is not the URI of a partition", objectURI)
	}
	query := make(url.Values)
	if begin >= 0 {
		query.Set("begin-sequence-number", strconv.FormatInt(begin, 10))
	}
	var answer list
	err := s.c.do(ctx, s.call(&call{
		operation: opListOSMessages, method: http.MethodGet, uri: objectURI + "/operations/list-os-messages", query: query.Encode(), into: &answer,
	}))
	return answer.elements, err
}

// GetAuditLog returns the entries of the console's audit log from begin to end, both inclusive and in milliseconds of the
// HMC's clock; the zero time is no bound. Each element is one entry as it stands, valid JSON; the elements share memory. They
// come in no particular order. It needs the task "Audit and Log Management" (else 403 with reason 1).
//
// An answer beyond 32 MiB is an *AnswerError with TooLong set: then a shorter time has to be asked for.
func (s *Session) GetAuditLog(ctx context.Context, begin, end time.Time) ([][]byte, error) {
	return s.getLog(ctx, opGetAuditLog, begin, end)
}

// GetSecurityLog is what GetAuditLog is, for the security log. It needs the task "View Security Logs".
func (s *Session) GetSecurityLog(ctx context.Context, begin, end time.Time) ([][]byte, error) {
	return s.getLog(ctx, opGetSecurityLog, begin, end)
}

func (s *Session) getLog(ctx context.Context, operation string, begin, end time.Time) ([][]byte, error) {
	query := make(url.Values)
	if !begin.IsZero() {
		query.Set("begin-time", strconv.FormatInt(begin.UnixMilli(), 10))
	}
	if !end.IsZero() {
		query.Set("end-time", strconv.FormatInt(end.UnixMilli(), 10))
	}
	var answer list
	err := s.c.do(ctx, s.call(&call{
		operation: operation, method: http.MethodGet, uri: "/api/console/operations/" + operation, query: query.Encode(), into: &answer,
	}))
	return answer.elements, err
}

// list is an answer that is an array, or an object with an array as its only member that is one. No content is an empty list.
type list struct{ elements [][]byte }

// UnmarshalJSON reads the answer. Its elements share data's memory.
func (l *list) UnmarshalJSON(data []byte) error {
	data = bytes.TrimSpace(bytes.Clone(data))
	var raw []json.RawMessage
	if len(data) > 0 && data[0] == '{' {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(data, &members); err != nil {
			return err
		}
		found := false
		for _, value := range members {
			if len(value) == 0 || value[0] != '[' {
				continue
			}
			if found {
				return fmt.Errorf("two arrays where one is expected")
			}
			found = true
			if err := json.Unmarshal(value, &raw); err != nil {
				return err
			}
		}
		if !found {
			return fmt.Errorf("no array where one is expected")
		}
	} else if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	l.elements = make([][]byte, len(raw))
	for i := range raw {
		l.elements[i] = raw[i]
	}
	return nil
}
