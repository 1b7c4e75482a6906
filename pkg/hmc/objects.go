package hmc

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

const (
	consoleURI = "/api/console"
	cpcsURI    = "/api/cpcs/"
	jobsURI    = "/api/jobs/"
)

// ListCPCs lists the CPCs that the userid has access to (List CPC Objects, as zhmcclient calls it).
// It takes one request, and works for a CPC that does not communicate as well, which Get CPC
// Properties does not (409 with reason 272). Where there are more than MaxCPCs it returns a
// *TooManyError along with as many, and where some cannot be read an *AnswerError along with
// the others.
func (s *Session) ListCPCs(ctx context.Context) ([]CPC, error) {
	answer := limited[CPC]{
		member: "cpcs", what: "CPCs", max: MaxCPCs, usable: func(c *CPC) bool { return c.ObjectURI != "" },
	}
	err := s.get(ctx, opListCPCs, "/api/cpcs", &answer)
	return answer.list(err)
}

// QueryJob returns how a job stands (Query Job Status). uri is the job-uri of the job's start or
// of its job-completion notification. The HMC keeps the outcome of a job for the userid that
// started it; a job that is gone is 404 with reason 1. The documentation gives the codes of a job
// that is complete or canceled only, and the reason code only with an error. The request does not
// wait behind others.
func (s *Session) QueryJob(ctx context.Context, uri string) (Job, error) {
	if !isObject(uri, jobsURI) {
		return Job{}, fmt.Errorf("query job status: %q is not the URI of a job", uri)
	}
	var answer struct {
		Status  json.RawMessage `json:"status"`
		Code    json.RawMessage `json:"job-status-code"`
		Reason  json.RawMessage `json:"job-reason-code"`
		Results json.RawMessage `json:"job-results"`
	}
	err := s.c.do(ctx, s.call(&call{
		operation: opQueryJobStatus, method: http.MethodGet, uri: uri, into: &answer, pressing: true,
	}))
	if err != nil {
		return Job{}, err
	}
	job := Job{StatusCode: code(answer.Code), ReasonCode: code(answer.Reason), Results: answer.Results}
	_ = json.Unmarshal(answer.Status, &job.Status) // of another type: as if it were absent
	return job, nil
}

// code reads a code, in whichever form there is one; nil: none.
func code(value json.RawMessage) *int {
	if n, ok := whole(value); ok {
		return &n
	}
	return nil
}

// HardwareMessage is a hardware message of the console or of a CPC, as a list or Get Hardware
// Message Properties gives it.
type HardwareMessage struct {
	// Raw is what the HMC gave, valid JSON, an object. Further properties (details, whose shape
	// is not known) are in it.
	Raw json.RawMessage

	// ElementURI is below that of the console or CPC; "" where the HMC did not give it.
	ElementURI string
	// Text may have several lines.
	Text string
	// Timestamp has a precision of milliseconds; it is the zero time where the HMC did not give
	// it.
	Timestamp time.Time

	// In the properties only.
	ElementID string
	// Parent is the URI of the console or CPC.
	Parent string
	// ServiceSupported says that IBM can be called because of it. This package cannot do that.
	ServiceSupported bool
}

// ListHardwareMessages lists the hardware messages of the console ("/api/console") or of a CPC (its
// object URI) whose time is not before begin; the zero time is no bound. They come in no particular
// order, and share memory. complete says that these are all that there are: no bound was given,
// each could be identified, and the HMC did not report that it could not have a part of them.
//
// It needs the task "Hardware Messages", for which view-only is enough, and object access to the
// CPC (else 403 with reason 1, or 404). A console was seen with thousands of them, so the
// properties of each are not asked for lightly. What is known of the operation is from IBM's
// documentation and from zhmcclient and its tests on real HMCs.
func (s *Session) ListHardwareMessages(
	ctx context.Context, parentURI string, begin time.Time,
) (messages []HardwareMessage, complete bool, err error) {
	if parentURI != consoleURI && !isObject(parentURI, cpcsURI) {
		return nil, false, fmt.Errorf(
			"list hardware messages: %q is not the URI of the console or of a CPC", parentURI)
	}
	const member = "hardware-messages"
	answer, err := s.getList(ctx, opListHardwareMessages, parentURI+"/"+member, timesOf(begin, time.Time{}),
		list{member: member, partly: true})
	if err != nil {
		return nil, false, err
	}
	complete = begin.IsZero() && answer.whole
	for _, element := range answer.elements {
		m := readHardwareMessage(element)
		complete = complete && m.ElementURI != ""
		messages = append(messages, m)
	}
	return messages, complete, nil
}

// GetHardwareMessage returns the properties of a hardware message. One that is gone is 404 with
// reason 1. No operation on hardware messages other than this and the list is ever called: the
// others delete the message or call IBM.
func (s *Session) GetHardwareMessage(ctx context.Context, elementURI string) (HardwareMessage, error) {
	var none HardwareMessage
	if !isHardwareMessage(elementURI) {
		return none, fmt.Errorf("get hardware message: %q is not the URI of a hardware message", elementURI)
	}
	var raw json.RawMessage
	r := s.call(&call{operation: opGetHardwareMessage, method: http.MethodGet, uri: elementURI, into: &raw})
	if err := s.c.do(ctx, r); err != nil {
		return none, err
	}
	if m := readHardwareMessage(raw); m.ElementURI == elementURI {
		return m, nil
	}
	return none, r.wrong("the answer is not the hardware message that was asked for")
}

// readHardwareMessage reads an object. A property of another type than the documented one is taken
// for absent: it is in Raw.
func readHardwareMessage(raw []byte) HardwareMessage {
	m := HardwareMessage{Raw: raw}
	var properties map[string]json.RawMessage
	if json.Unmarshal(raw, &properties) != nil {
		return m
	}
	var ms int64
	for name, into := range map[string]any{
		"element-uri": &m.ElementURI, "text": &m.Text, "timestamp": &ms,
		"element-id": &m.ElementID, "parent": &m.Parent, "service-supported": &m.ServiceSupported,
	} {
		_ = json.Unmarshal(properties[name], into)
	}
	// No clock of an HMC tells another time, as where it is in seconds.
	const year2000, year2100 = 946684800000, 4102444800000
	if ms >= year2000 && ms < year2100 {
		m.Timestamp = time.UnixMilli(ms)
	}
	return m
}

// isHardwareMessage says whether a string is the URI of a hardware message of the console or of a
// CPC.
func isHardwareMessage(uri string) bool {
	const below = "/hardware-messages/"
	i := strings.Index(uri, below)
	if i < 0 {
		return false
	}
	return (uri[:i] == consoleURI || isObject(uri[:i], cpcsURI)) && isObject(uri[i:], below)
}
