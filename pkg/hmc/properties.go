package hmc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

const (
	partitionsURI        = "/api/partitions/"
	logicalPartitionsURI = "/api/logical-partitions/"
	// The HMC does so many of several requests at a time, at most (zhmcclient).
	aggregationThreads = 4
)

// Info is what an HMC tells of a CPC or partition beyond the lists. What it does not tell is zero.
type Info struct {
	ObjectURI string
	// AcceptableStatus are the statuses that do not call for attention, as operators maintain them;
	// nil: not told.
	AcceptableStatus []string

	// Of a partition with an operating system that tells: what runs there.
	OSName, OSType, OSLevel string
	// Of z/OS: the sysplex that it belongs to.
	Sysplex string
	// IPLToken is another one after each IPL; only some operating systems set one, such as z/OS.
	IPLToken string
	// How it was loaded, of an LPAR.
	LoadAddress, LoadParameter string

	// By GetFacts alone. CPCURI is that of the CPC that the object belongs to; "": to none, or to
	// all.
	Name, CPCURI string
	// PSWs are the program status words of an LPAR's processors, each as 32 hexadecimal digits.
	// Those of an LPAR whose processors run say nothing.
	PSWs []string
}

// noIPLToken is the os-ipl-token where none was set.
const noIPLToken = "0000000000000000"

// infoNames are the properties that an Info is made of, by the beginning of the URI. A CPC, and a
// DPM partition, have some of them only.
var infoNames = []struct{ prefix, names string }{
	{cpcsURI, "acceptable-status"},
	{partitionsURI, "acceptable-status,os-name,os-type,os-version"},
	{logicalPartitionsURI, "acceptable-status,os-name,os-type,os-level,sysplex-name,os-ipl-token," +
		"last-used-load-address,last-used-load-parameter"},
}

// namesOf are the properties that an Info of an object is made of.
func namesOf(uri string) (names string, err error) {
	for _, of := range infoNames {
		if isObject(uri, of.prefix) {
			return of.names, nil
		}
	}
	return "", fmt.Errorf("get properties: %q is not the URI of a CPC or partition", uri)
}

// GetInfo returns what the HMC tells of a CPC or partition.
func (s *Session) GetInfo(ctx context.Context, uri string) (Info, error) {
	return s.getInfo(ctx, uri, namesOf, false)
}

func (s *Session) getInfo(
	ctx context.Context, uri string, namesOf func(uri string) (string, error), pressing bool,
) (Info, error) {
	names, err := namesOf(uri)
	if err != nil {
		return Info{}, err
	}
	var properties json.RawMessage
	err = s.getProperties(ctx, uri, names, &properties, pressing)
	if names != "" && IsStatus(err, http.StatusBadRequest) { // it does not know one of them
		err = s.getProperties(ctx, uri, "", &properties, pressing)
	}
	return readInfo(uri, properties), err
}

// GetInfos is GetInfo for several objects in one request (Submit Requests, as zhmcclient uses it);
// more than a few hundred are better split. One that the HMC cannot give is left out: it is gone,
// or its support element does not answer. An HMC that does not know the operation answers 404 or
// 405.
func (s *Session) GetInfos(ctx context.Context, uris []string) ([]Info, error) {
	return s.getInfos(ctx, uris, namesOf, false)
}

func (s *Session) getInfos(
	ctx context.Context, uris []string, namesOf func(uri string) (string, error), pressing bool,
) ([]Info, error) {
	infos, unknown, err := s.submitGETs(ctx, uris, namesOf, pressing)
	if err != nil || len(unknown) == 0 {
		return infos, err
	}
	more, _, err := s.submitGETs(ctx, unknown, func(string) (string, error) { return "", nil }, pressing)
	return append(infos, more...), err
}

// submitGETs gets properties of several objects in one request. unknown are those of which the HMC
// does not know one of the properties.
func (s *Session) submitGETs(
	ctx context.Context, uris []string, namesOf func(uri string) (string, error), pressing bool,
) (infos []Info, unknown []string, err error) {
	type get struct {
		Method string `json:"method"`
		URI    string `json:"uri"`
		ID     string `json:"id"`
	}
	gets := make([]get, 0, len(uris))
	for i, uri := range uris {
		names, err := namesOf(uri)
		if err != nil {
			return nil, nil, err
		}
		if names != "" {
			uri += "?properties=" + names
		}
		gets = append(gets, get{http.MethodGet, uri, strconv.Itoa(i)})
	}
	answer := list{}
	r := s.call(&call{
		operation: opSubmitRequests, method: http.MethodPost, uri: "/api/services/aggregation/submit", into: &answer,
		body: map[string]any{"requests": gets, "threads": aggregationThreads}, repeatable: true, long: true,
		pressing: pressing,
	})
	if err := s.c.do(ctx, r); err != nil {
		return nil, nil, err
	}
	for _, element := range answer.elements {
		var one struct {
			ID     string          `json:"id"`
			Status int             `json:"status"`
			Body   json.RawMessage `json:"body"`
		}
		if json.Unmarshal(element, &one) != nil {
			continue
		}
		switch i, err := strconv.Atoi(one.ID); {
		case err != nil || i < 0 || i >= len(uris):
		case one.Status == http.StatusOK:
			infos = append(infos, readInfo(uris[i], one.Body))
		case one.Status == http.StatusBadRequest:
			unknown = append(unknown, uris[i])
		}
	}
	return infos, unknown, nil
}

// IsStatus says whether an error is an answer of the HMC with this HTTP status.
func IsStatus(err error, status int) bool {
	e, ok := errors.AsType[*HTTPError](err)
	return ok && e.Status == status
}

func (s *Session) getProperties(
	ctx context.Context, uri, names string, into *json.RawMessage, pressing bool,
) error {
	query := make(url.Values)
	if names != "" {
		query.Set("properties", names)
	}
	return s.c.do(ctx, s.call(&call{
		operation: opGetProperties, method: http.MethodGet, uri: uri, query: query.Encode(), into: into,
		pressing: pressing,
	}))
}

// readInfo reads properties. One of another type than the documented one is taken for absent.
func readInfo(uri string, raw []byte) Info {
	i := Info{ObjectURI: uri}
	var p map[string]json.RawMessage
	if json.Unmarshal(raw, &p) != nil {
		return i
	}
	text := func(name string) string {
		var s string
		_ = json.Unmarshal(p[name], &s)
		return strings.TrimSpace(s)
	}
	_ = json.Unmarshal(p["acceptable-status"], &i.AcceptableStatus)
	i.OSName, i.OSType, i.Sysplex = text("os-name"), text("os-type"), text("sysplex-name")
	if i.OSLevel = text("os-level"); i.OSLevel == "" {
		i.OSLevel = text("os-version")
	}
	if token := text("os-ipl-token"); token != noIPLToken {
		i.IPLToken = token
	}
	i.LoadAddress, i.LoadParameter = text("last-used-load-address"), text("last-used-load-parameter")
	i.Name = text("name")
	for _, name := range []string{"parent", "cpc-uri"} { // the parent of a storage group is the console
		if uri := text(name); isObject(uri, cpcsURI) {
			i.CPCURI = uri
		}
	}
	var words []struct {
		PSW string `json:"psw"`
	}
	_ = json.Unmarshal(p["program-status-word-information"], &words)
	for _, w := range words {
		i.PSWs = append(i.PSWs, strings.ReplaceAll(w.PSW, " ", ""))
	}
	return i
}

// GetFacts returns what an event about one of these objects, of whatever class, is held back for:
// its name, where it belongs, and of an LPAR the program status words. It does not wait behind
// other requests. Several are asked for in one request where the HMC knows Submit Requests. One
// that the HMC does not give is left out: it is gone, for example.
func (s *Session) GetFacts(ctx context.Context, uris []string) (facts []Info, err error) {
	if len(uris) > 1 {
		facts, err = s.getInfos(ctx, uris, factsOf, true)
		if !IsStatus(err, http.StatusNotFound) && !IsStatus(err, http.StatusMethodNotAllowed) {
			return facts, err
		}
	}
	for _, uri := range uris {
		one, err := s.getInfo(ctx, uri, factsOf, true)
		switch e, ok := errors.AsType[*HTTPError](err); {
		case err == nil:
			facts = append(facts, one)
		case !ok || e.Status >= http.StatusInternalServerError || SessionLost(err):
			return facts, err
		}
	}
	return facts, nil
}

// factsOf are the properties that GetFacts asks for; "": all.
func factsOf(uri string) (names string, err error) {
	class, id, _ := strings.Cut(strings.TrimPrefix(uri, "/api/"), "/")
	switch {
	case !isObject(uri, "/api/"+class+"/") || !isObject(class, "") || id == "":
		return "", fmt.Errorf("get properties: %q is not the URI of an object", uri)
	case isObject(uri, logicalPartitionsURI):
		return "name,parent,program-status-word-information", nil
	case isObject(uri, partitionsURI):
		return "name,parent", nil
	}
	return "", nil
}

// ListHeldMessages lists the OS messages of a partition that wait for an answer, as ListOSMessages
// does all. filtered says that the HMC is asked for these alone: it may not know the filter (400),
// of DPM partitions it never does. The list then has all messages.
func (s *Session) ListHeldMessages(ctx context.Context, objectURI string, filtered bool) ([][]byte, error) {
	if !isPartition(objectURI) {
		return nil, fmt.Errorf("list OS messages: %q is not the URI of a partition", objectURI)
	}
	query := make(url.Values)
	if filtered && isObject(objectURI, logicalPartitionsURI) {
		query.Set("is-held", "true")
	}
	uri := objectURI + "/operations/list-os-messages"
	answer, err := s.getList(ctx, opListOSMessages, uri, query, list{member: "os-messages"})
	return answer.elements, err
}
