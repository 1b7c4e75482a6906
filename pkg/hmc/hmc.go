// Package hmc is a client of the Web Services API of an IBM Z or LinuxONE Hardware Management
// Console (HMC): the few calls that a receiver of its notifications needs, with typed errors.
//
// An HMC is a fragile neighbor. A Client therefore has at most two requests in flight, keeps within
// a budget of requests per minute, never repeats a logon by itself (an HMC disables a userid after
// a few refused ones), and logs off what it logged on.
//
// What the API answers is known from IBM's documentation (book SC27-2646 and its pages on the web),
// from the code of clients that work with real HMCs (zhmcclient and the programs around it), and
// from answers of real HMCs that were posted publicly.
package hmc

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/jsontext"
)

// DefaultPort is the port of the Web Services API.
const DefaultPort = 6794

// Version is the answer to Query API Version.
type Version struct {
	APIMajor   int      `json:"api-major-version"`
	APIMinor   int      `json:"api-minor-version"`
	HMCName    string   `json:"hmc-name"`
	HMCVersion string   `json:"hmc-version"` // such as 2.16.0
	Features   []string `json:"api-features"`
}

// String returns "HMC1, version 2.16.0, API 4.40".
func (v Version) String() string {
	return fmt.Sprintf("%s, version %s, API %d.%d", v.HMCName, v.HMCVersion, v.APIMajor, v.APIMinor)
}

// The types of topics.
const (
	TopicTypeObject = "object-notification"
	TopicTypeJob    = "job-notification"
	// Listed only for a userid with the task "Audit and Log Management".
	TopicTypeAudit = "audit-notification"
	// Listed only for a userid with the task "View Security Logs".
	TopicTypeSecurity = "security-notification"
	// One for each channel that the session has opened.
	TopicTypeOSMessage = "os-message-notification"
)

// The operations, as Options.OnRequest and the log name them: after IBM's book.
const (
	opQueryAPIVersion                = "query-api-version"
	opLogon                          = "logon"
	opLogoff                         = "logoff"
	opGetNotificationTopics          = "get-notification-topics"
	opListPermittedPartitions        = "list-permitted-partitions"
	opListPermittedLogicalPartitions = "list-permitted-logical-partitions"
	opOpenOSMessageChannel           = "open-os-message-channel"
	opListOSMessages                 = "list-os-messages"
	opGetAuditLog                    = "get-audit-log"
	opGetSecurityLog                 = "get-security-log"
	opListCPCs                       = "list-cpcs"
	opQueryJobStatus                 = "query-job-status"
	opListHardwareMessages           = "list-hardware-messages"
	opGetHardwareMessage             = "get-hardware-message-properties"
	opGetProperties                  = "get-properties"
	opSubmitRequests                 = "submit-requests"
)

// Operations lists every operation that Options.OnRequest may name.
func Operations() []string {
	return []string{
		opQueryAPIVersion,
		opLogon,
		opLogoff,
		opGetNotificationTopics,
		opListPermittedPartitions,
		opListPermittedLogicalPartitions,
		opOpenOSMessageChannel,
		opListOSMessages,
		opGetAuditLog,
		opGetSecurityLog,
		opListCPCs,
		opQueryJobStatus,
		opListHardwareMessages,
		opGetHardwareMessage,
		opGetProperties,
		opSubmitRequests,
	}
}

// Topic is one topic of a session. Its name is opaque, and gone with the session.
type Topic struct {
	// Type is one of the TopicType constants, or one that is not known yet.
	Type string `json:"topic-type"`
	// Name is without "/topic/".
	Name string `json:"topic-name"`

	// Of a TopicTypeOSMessage only. The URI is documented as that of the partition, but clients
	// have seen a bare object id: compare the last segment.
	ObjectURI              string `json:"object-uri"`
	IncludeRefreshMessages bool   `json:"include-refresh-messages"`
}

// Partition is a DPM partition or a classic logical partition (LPAR).
type Partition struct {
	Name string `json:"name"`
	// ObjectURI is /api/partitions/UUID or /api/logical-partitions/UUID.
	ObjectURI string `json:"object-uri"`
	Status    string `json:"status"`
	CPCName   string `json:"cpc-name"`
	CPCURI    string `json:"cpc-object-uri"`
	SEVersion string `json:"se-version"`
	// HasUnacceptableStatus is nil where the HMC does not tell.
	HasUnacceptableStatus *bool `json:"has-unacceptable-status"`

	// Type is the type of a DPM partition (linux, ssc, zvm), ActivationMode the mode of a
	// classic one (linux, esa390, ...).
	Type           string `json:"type"`
	ActivationMode string `json:"activation-mode"`
}

// CPC is a machine that an HMC manages.
type CPC struct {
	Name string `json:"name"`
	// /api/cpcs/UUID
	ObjectURI string `json:"object-uri"`
	Status    string `json:"status"`

	// Told by an HMC of version 2.14 or later; nil: not told.
	HasUnacceptableStatus *bool  `json:"has-unacceptable-status"`
	DPMEnabled            bool   `json:"dpm-enabled"`
	SEVersion             string `json:"se-version"`
}

// Job is how an asynchronous operation stands, or has ended.
type Job struct {
	// Status is running, cancel-pending, canceled or complete.
	Status string `json:"status"`
	// StatusCode is an HTTP status; nil: the job has not ended.
	StatusCode *int `json:"job-status-code"`
	// nil: no error
	ReasonCode *int `json:"job-reason-code"`
	// Results are as the operation documents them; nil: none.
	Results json.RawMessage `json:"job-results"`
}

// whole reads a whole number, or one in a string, as HMCs write some.
func whole(raw json.RawMessage) (n int, ok bool) {
	f, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	return int(f), err == nil && f == math.Trunc(f) && math.Abs(f) <= math.MaxInt32
}

// maxMended bounds the answers that are mended, which takes three times their memory.
const maxMended = 8 << 20

// decodeAnswer reads a JSON answer. Properties that are not known, such as @@implementation-errors,
// do not matter. cut says that the answer goes on, which is an error unless into is a beginning.
//
// One byte that is wrong hides nothing else, and a text that was notified as well is the same text.
func decodeAnswer(data []byte, cut bool, into any) error {
	if 0 < len(data) && len(data) <= maxMended {
		if _, err := jsontext.Check(data); err != nil {
			if mended := jsontext.Mended(data); json.Valid(mended) || cut && mended != nil {
				data = mended
			}
		}
	}
	switch l := into.(type) {
	case *list:
		return l.decode(data)
	case beginning:
		return l.decode(data, cut)
	}
	return json.Unmarshal(data, into)
}
