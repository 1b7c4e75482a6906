package hmcsim

import (
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// path splits a path of the Web Services API into segments.
func path(p string) []string { return strings.Split(strings.Trim(p, "/"), "/") }

// operations are what REST can do, named as in IBM's book.
var operations = slices.Concat(
	[]operation{
		{
			name: "query-api-version", method: http.MethodGet, path: path("/api/version"), open: true,
			handle: queryAPIVersion,
		},
		{name: "logon", method: http.MethodPost, path: path("/api/sessions"), open: true, handle: logon},
		{
			name: "logoff", method: http.MethodDelete, path: path("/api/sessions/this-session"), partial: true,
			handle: logoff,
		},
		{
			name: "get-notification-topics", method: http.MethodGet,
			path: path("/api/sessions/operations/get-notification-topics"), handle: getNotificationTopics,
		},
		{name: "query-job-status", method: http.MethodGet, path: path("/api/jobs/{}"), handle: queryJob},
		{name: "delete-completed-job-status", method: http.MethodDelete, path: path("/api/jobs/{}"), handle: deleteJob},
		{name: "cancel-job", method: http.MethodPost, path: path("/api/jobs/{}/operations/cancel"), handle: cancelJob},
		{name: "get-console-properties", method: http.MethodGet, path: path("/api/console"), handle: getConsole},
		{
			name: "get-console-audit-log", method: http.MethodGet,
			path: path("/api/console/operations/get-audit-log"), handle: getLog(TopicAudit),
		},
		{
			name: "get-console-security-log", method: http.MethodGet,
			path: path("/api/console/operations/get-security-log"), handle: getLog(TopicSecurity),
		},
		{
			name: "list-permitted-partitions", method: http.MethodGet,
			path: path("/api/console/operations/list-permitted-partitions"), handle: listPermitted(true),
		},
		{
			name: "list-permitted-logical-partitions", method: http.MethodGet,
			path: path("/api/console/operations/list-permitted-logical-partitions"), handle: listPermitted(false),
		},
		{name: "list-cpcs", method: http.MethodGet, path: path("/api/cpcs"), handle: listCPCs},
		{name: "get-cpc-properties", method: http.MethodGet, path: path("/api/cpcs/{}"), handle: getCPC},
		{name: "update-cpc-properties", method: http.MethodPost, path: path("/api/cpcs/{}"), handle: updateCPC},
		{
			name: "list-partitions", method: http.MethodGet, path: path("/api/cpcs/{}/partitions"),
			handle: listOfCPC(true),
		},
		{
			name: "list-logical-partitions", method: http.MethodGet, path: path("/api/cpcs/{}/logical-partitions"),
			handle: listOfCPC(false),
		},
		{
			name: "create-partition", method: http.MethodPost, path: path("/api/cpcs/{}/partitions"),
			handle: createPartition,
		},
		{
			name: "delete-partition", method: http.MethodDelete, path: path("/api/partitions/{}"),
			handle: deletePartition,
		},
		{name: "get-nic-properties", method: http.MethodGet, path: path("/api/partitions/{}/nics/{}"), handle: getNIC},
		{
			name: "start-partition", method: http.MethodPost, path: path("/api/partitions/{}/operations/start"),
			handle: startPartition,
		},
		{
			name: "stop-partition", method: http.MethodPost, path: path("/api/partitions/{}/operations/stop"),
			handle: stopPartition,
		},
		{
			name: "activate-logical-partition", method: http.MethodPost,
			path: path("/api/logical-partitions/{}/operations/activate"), handle: activateLPAR,
		},
		{
			name: "deactivate-logical-partition", method: http.MethodPost,
			path: path("/api/logical-partitions/{}/operations/deactivate"), handle: deactivateLPAR,
		},
		{
			name: "load-logical-partition", method: http.MethodPost,
			path: path("/api/logical-partitions/{}/operations/load"), handle: loadLPAR,
		},
		{
			name: "start-logical-partition", method: http.MethodPost,
			path: path("/api/logical-partitions/{}/operations/start"), handle: startLPAR,
		},
		{
			name: "stop-logical-partition", method: http.MethodPost,
			path: path("/api/logical-partitions/{}/operations/stop"), handle: stopLPAR,
		},
		{
			name: "reset-clear", method: http.MethodPost,
			path: path("/api/logical-partitions/{}/operations/reset-clear"), handle: resetLPAR("Reset Clear"),
		},
		{
			name: "reset-normal", method: http.MethodPost,
			path: path("/api/logical-partitions/{}/operations/reset-normal"), handle: resetLPAR("Reset Normal"),
		},
	},
	ofBothKinds("get-{kind}-properties", http.MethodGet, "", getPartition),
	ofBothKinds("update-{kind}-properties", http.MethodPost, "", updatePartition),
	ofBothKinds(
		"open-os-message-channel", http.MethodPost, "/operations/open-os-message-channel", openOSMessageChannel,
	),
	ofBothKinds("list-os-messages", http.MethodGet, "/operations/list-os-messages", listOSMessages),
	ofBothKinds("delete-os-message", http.MethodPost, "/operations/delete-os-message", deleteOSMessage),
	ofBothKinds("send-os-command", http.MethodPost, "/operations/send-os-cmd", sendOSCommand),
	adapterOperations,
	emptyLists(),
	hwOperations("/api/console"),
	hwOperations("/api/cpcs/{}"),
)

// ofBothKinds returns an operation of DPM partitions and of classic LPARs.
func ofBothKinds(name, method, tail string, handle func(*request) reply) []operation {
	return []operation{
		{
			name: strings.ReplaceAll(name, "{kind}", "partition"), method: method,
			path: path("/api/partitions/{}" + tail), handle: handle,
		},
		{
			name: strings.ReplaceAll(name, "{kind}", "logical-partition"), method: method,
			path: path("/api/logical-partitions/{}" + tail), handle: handle,
		},
	}
}

// hwOperations returns the operations of hardware messages. A monitor may list and get them; the
// rest changes something or calls IBM.
func hwOperations(base string) []operation {
	one := base + "/hardware-messages/{}"
	return []operation{
		{
			name: "list-hardware-messages", method: http.MethodGet, path: path(base + "/hardware-messages"),
			handle: listHWMessages,
		},
		{name: "get-hardware-message-properties", method: http.MethodGet, path: path(one), handle: getHWMessage},
		{
			name: "delete-hardware-message", method: http.MethodDelete, path: path(one), handle: deleteHWMessage,
			forbidden: true,
		},
		{
			name: "request-service", method: http.MethodPost, path: path(one + "/operations/request-service"),
			handle: serviceHWMessage, forbidden: true,
		},
		{
			name: "decline-service", method: http.MethodPost, path: path(one + "/operations/decline-service"),
			handle: serviceHWMessage, forbidden: true,
		},
		{
			name: "get-service-information", method: http.MethodGet,
			path: path(one + "/operations/get-service-information"), handle: getServiceInformation, forbidden: true,
		},
	}
}

// filter says what a list request asks for: regular expressions over the whole name (several of a
// kind mean any of them) and further properties.
type filter struct {
	patterns map[string][]*regexp.Regexp
	more     []string
}

// filter reads the query parameters of a list request; those not in known are refused.
func (r *request) filter(known ...string) (filter, *reply) {
	f := filter{patterns: make(map[string][]*regexp.Regexp)}
	for name, values := range r.query {
		switch {
		case name == "additional-properties" && slices.Contains(known, name):
			for _, v := range values {
				f.more = append(f.more, strings.Split(v, ",")...)
			}
		case slices.Contains(known, name):
			for _, v := range values {
				re, err := regexp.Compile("^(?:" + v + ")$")
				if err != nil {
					rep := r.fail(
						http.StatusBadRequest, 14, "The query parameter "+name+" is no valid regular expression.",
					)
					return f, &rep
				}
				f.patterns[name] = append(f.patterns[name], re)
			}
		default:
			rep := r.fail(http.StatusBadRequest, 1, "The query parameter "+name+" is not recognized.")
			return f, &rep
		}
	}
	return f, nil
}

// is says whether a Boolean is as the request asks for. zhmcclient writes True and False.
func (f *filter) is(name string, value bool) bool {
	patterns := f.patterns[name]
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(re *regexp.Regexp) bool {
		return strings.EqualFold(re.String(), "^(?:"+strconv.FormatBool(value)+")$")
	})
}

func (f *filter) match(name, value string) bool {
	patterns := f.patterns[name]
	return len(patterns) == 0 ||
		slices.ContainsFunc(patterns, func(re *regexp.Regexp) bool { return re.MatchString(value) })
}

// pick returns the properties a GET asks for by its query parameter properties, or all. Only that
// parameter is known, and those in more, which change nothing here.
func (r *request) pick(all map[string]any, more ...string) reply {
	for _, name := range sortedKeys(r.query) {
		if name != "properties" && !slices.Contains(more, name) {
			return r.fail(http.StatusBadRequest, 1, "The query parameter "+name+" is not recognized.")
		}
	}
	if !r.query.Has("properties") {
		return ok(all)
	}
	some := make(map[string]any)
	for _, list := range r.query["properties"] {
		for name := range strings.SplitSeq(list, ",") {
			value, known := all[name]
			if !known {
				return r.fail(http.StatusBadRequest, 14, "The property "+name+" is not recognized.")
			}
			some[name] = value
		}
	}
	return ok(some)
}

// queryInt reads a number from the query.
func queryInt(query url.Values, name string, missing int64) (int64, bool) {
	if !query.Has(name) {
		return missing, true
	}
	n, err := strconv.ParseInt(query.Get(name), 10, 64)
	return n, err == nil
}

// timeBounds reads begin-time and end-time: ms since the epoch, inclusive, both optional.
func (r *request) timeBounds() (from, to int64, bad *reply) {
	from, ok1 := queryInt(r.query, "begin-time", math.MinInt64)
	to, ok2 := queryInt(r.query, "end-time", math.MaxInt64)
	if !ok1 || !ok2 || from > to {
		rep := r.fail(http.StatusBadRequest, 14, "begin-time or end-time is not valid.")
		return 0, 0, &rep
	}
	return from, to, nil
}

// conflict is the answer of a partition that is busy, or in the wrong status.
func (r *request) conflict(p *partition) reply {
	if p.busy {
		return r.fail(http.StatusConflict, 2, "The object is busy with another operation.")
	}
	return r.fail(
		http.StatusConflict, 1,
		"The operation cannot be performed because the object is in the state "+p.status+".",
	)
}
