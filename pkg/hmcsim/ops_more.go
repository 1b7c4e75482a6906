package hmcsim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// adapterOperations are those of adapters, storage groups, and of several GETs at once.
var adapterOperations = []operation{
	{
		name: "list-adapters", method: http.MethodGet, path: path("/api/cpcs/{}/adapters"),
		handle: func(r *request) reply {
			c := r.cpc()
			if c == nil {
				return r.notFound()
			}
			return r.listAdapters([]*cpc{c}, false)
		},
	},
	{
		name: "list-permitted-adapters", method: http.MethodGet,
		path:   path("/api/console/operations/list-permitted-adapters"),
		handle: func(r *request) reply { return r.listAdapters(r.h.world.cpcs, true) },
	},
	{
		name: "get-adapter-properties", method: http.MethodGet, path: path("/api/adapters/{}"),
		handle: func(r *request) reply {
			for _, c := range r.h.world.cpcs {
				for _, a := range c.adapters {
					if a.id == r.ids[0] {
						return r.pick(a.properties())
					}
				}
			}
			return r.notFound()
		},
	},
	{name: "list-storage-groups", method: http.MethodGet, path: path("/api/storage-groups"), handle: listStorageGroups},
	{
		name: "get-storage-group-properties", method: http.MethodGet, path: path("/api/storage-groups/{}"),
		handle: func(r *request) reply {
			for _, g := range r.h.world.groups {
				if g.id == r.ids[0] {
					return r.pick(g.properties())
				}
			}
			return r.notFound()
		},
	},
	{
		name: "submit-requests", method: http.MethodPost, path: path("/api/services/aggregation/submit"),
		aggregates: true,
	},
}

func (r *request) listAdapters(cpcs []*cpc, permitted bool) reply {
	known := []string{"name", "adapter-id", "adapter-family", "type", "status", "additional-properties"}
	if permitted {
		known = append(known, "firmware-update-pending", "cpc-name", "dpm-enabled")
	}
	f, bad := r.filter(known...)
	if bad != nil {
		return *bad
	}
	list := []any{}
	for _, c := range cpcs {
		for _, a := range c.adapters {
			if f.match("name", a.name) && f.match("adapter-id", a.number) && f.match("adapter-family", a.family) &&
				f.match("type", a.kind) && f.match("status", a.status) && f.match("cpc-name", c.name) &&
				f.is("firmware-update-pending", false) && f.is("dpm-enabled", c.dpm) {
				list = append(list, a.listed(permitted, f.more))
			}
		}
	}
	return ok(map[string]any{"adapters": list})
}

func listStorageGroups(r *request) reply {
	f, bad := r.filter("name", "cpc-uri", "fulfillment-state", "type")
	if bad != nil {
		return *bad
	}
	list := []any{}
	for _, g := range r.h.world.groups {
		if f.match("name", g.name) && f.match("cpc-uri", g.cpc.uri()) && f.match("type", "fcp") &&
			f.match("fulfillment-state", g.fulfillment) {
			list = append(list, map[string]any{
				"object-uri": g.uri(), "cpc-uri": g.cpc.uri(), "name": g.name, "type": "fcp",
				"fulfillment-state": g.fulfillment,
			})
		}
	}
	return ok(map[string]any{"storage-groups": list})
}

// emptyLists are lists of what this HMC has none of: users (but the one that the daemon is cannot
// see the others), groups, and so on. The paths and members are those of zhmcclient.
func emptyLists() []operation {
	var all []operation
	for _, base := range []struct{ path, members string }{
		{"/api/console/", "users user-roles user-patterns password-rules tasks " +
			"ldap-server-definitions mfa-server-definitions sso-server-definitions"},
		{"/api/", "groups storage-templates tape-libraries"},
		{"/api/cpcs/{}/", "virtual-switches capacity-groups reset-activation-profiles image-activation-profiles " +
			"load-activation-profiles"},
	} {
		for member := range strings.FieldsSeq(base.members) {
			all = append(all, operation{
				name: "list-" + member, method: http.MethodGet, path: path(base.path + member),
				handle: func(r *request) reply {
					if len(r.ids) > 0 && r.cpc() == nil {
						return r.notFound()
					}
					return ok(map[string]any{member: []any{}})
				},
			})
		}
	}
	return append(all, operation{
		name: "list-unmanaged-cpcs", method: http.MethodGet, path: path("/api/console/operations/list-unmanaged-cpcs"),
		handle: func(*request) reply { return ok(map[string]any{"cpcs": []any{}}) },
	})
}

// maxAggregated bounds the body of a request with several GETs: zhmcclient splits what is longer.
const maxAggregated = 256_000

// submitRequests does several requests in one, as zhmcclient has them:
// {"requests":[{"method","uri","id"}],"threads":1}, answered by an array of
// {"id","status","headers","body"}. Only GET is done here.
func submitRequests(r *request) reply {
	if len(r.raw) > maxAggregated {
		return r.fail(http.StatusRequestEntityTooLarge, 0, "The request body is too large.")
	}
	var body struct {
		Requests []struct {
			Method, URI string
			ID          json.RawMessage
		} `json:"requests"`
		Threads int `json:"threads"`
	}
	if json.Unmarshal(r.raw, &body) != nil || body.Requests == nil {
		return r.fail(http.StatusBadRequest, 5, "A required field is missing: requests is required.")
	}
	if body.Threads < 0 || body.Threads > 10 {
		return r.fail(http.StatusBadRequest, 7, "The field 'threads' must be between 1 and 10.")
	}
	answers := []any{}
	for _, one := range body.Requests {
		if one.Method == "" || one.URI == "" {
			return r.fail(http.StatusBadRequest, 5, "A required field is missing: method and uri are required.")
		}
		rep := r.aggregated(one.Method, one.URI)
		answer := map[string]any{"status": rep.status, "headers": []any{}, "body": rep.body}
		if one.ID != nil {
			answer["id"] = one.ID
		}
		answers = append(answers, answer)
	}
	return ok(answers)
}

// aggregated is the answer to one of several requests.
func (r *request) aggregated(method, uri string) reply {
	if method != http.MethodGet || !strings.HasPrefix(uri, "/api/") {
		return r.fail(http.StatusBadRequest, 7, fmt.Sprintf("The request %s %s is not supported here.", method, uri))
	}
	inner, err := http.NewRequestWithContext(r.Context(), method, uri, http.NoBody)
	if err != nil {
		return r.fail(http.StatusBadRequest, 7, "The URI is not valid.")
	}
	inner.Header, inner.RequestURI = r.Header.Clone(), uri
	op, ids, known := r.h.route(inner)
	if op != nil && op.forbidden {
		r.h.forbidden++
	}
	return r.h.answerLocked(inner, op, ids, known, nil, new(Call))
}
