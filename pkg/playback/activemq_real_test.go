//go:build real

package playback

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/activemq"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
)

// console is a Web Services API that was written for this test alone, from the documentation: what a capture holds, and how it is
// played back, must not depend on how the simulator does things. The broker is Apache ActiveMQ, behind a relay that can cut it off.
type console struct {
	t       *testing.T
	estate  *estate
	broker  *activemq.Broker
	ca      []byte
	server  *http.Server
	web     net.Listener
	relay   net.Listener
	end     context.CancelFunc
	working sync.WaitGroup

	mu        sync.Mutex
	links     map[net.Conn]bool
	number    int    // of the session
	session   string // the id of the only one; "": none
	topics    []map[string]any
	parts     []*part
	status    map[string]string // of CPCs and partitions, by URI
	audit     []map[string]any
	sequences map[string]int // session-sequence-nr, by topic
	global    int
}

type part struct {
	uri, id, name, cpc string
	dpm                bool
	messages           []map[string]any
}

// uuid is an object id.
func uuid() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func startConsole(t *testing.T, e *estate, broker *activemq.Broker, certificate certs.Certificate) *console {
	t.Helper()
	c := &console{
		t: t, estate: e, broker: broker, ca: broker.Authority().PEM(), number: 40, links: make(map[net.Conn]bool),
		status: make(map[string]string), sequences: make(map[string]int),
	}
	for i, cpc := range e.cpcs {
		cpcURI, id := "/api/cpcs/"+uuid(), uuid()
		p := &part{id: id, uri: "/api/logical-partitions/" + id, name: e.partitions[i], cpc: cpc}
		c.status[cpcURI+" "+cpc] = "operating"
		if c.status[p.uri] = "operating"; i == 0 {
			p.dpm, p.uri = true, "/api/partitions/"+id
			c.status[p.uri] = "active"
		}
		c.parts = append(c.parts, p)
	}
	listen := func() net.Listener {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	var ctx context.Context
	ctx, c.end = context.WithCancel(context.Background())
	c.web, c.relay = listen(), listen()
	c.server = &http.Server{Handler: c.api(), TLSConfig: certificate.ServerConfig(t), ReadHeaderTimeout: time.Minute}
	c.working.Go(func() { _ = c.server.ServeTLS(c.web, "", "") }) // until it is closed
	c.working.Go(func() { c.forward(ctx) })
	t.Cleanup(func() {
		c.end()
		_, _ = c.server.Close(), c.relay.Close()
		c.cut()
		c.working.Wait()
	})
	return c
}

func (c *console) RESTPort() int     { return c.web.Addr().(*net.TCPAddr).Port }
func (c *console) StompPort() int    { return c.relay.Addr().(*net.TCPAddr).Port }
func (c *console) CACertPEM() []byte { return c.ca }

// forward connects whoever comes with the broker.
func (c *console) forward(ctx context.Context) {
	for {
		in, err := c.relay.Accept()
		if err != nil {
			return
		}
		out, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(c.broker.Host(), strconv.Itoa(c.broker.Port())))
		if err != nil {
			_ = in.Close()
			continue
		}
		c.mu.Lock()
		c.links[in], c.links[out] = true, true
		c.mu.Unlock()
		for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
			c.working.Go(func() {
				_, _ = io.Copy(pair[0], pair[1])
				_, _ = pair[0].Close(), pair[1].Close()
			})
		}
	}
}

// cut ends all links.
func (c *console) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.links {
		_ = l.Close()
		delete(c.links, l)
	}
}

// forget ends the session, and lets the links be.
func (c *console) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = ""
}

func reply(w http.ResponseWriter, status int, what any) {
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(what)
}

func refuse(w http.ResponseWriter, r *http.Request, status, reason int, message string) {
	reply(w, status, map[string]any{
		"http-status": status, "reason": reason, "message": message, "request-method": r.Method, "request-uri": r.URL.Path,
	})
}

func (c *console) api() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(w http.ResponseWriter, r *http.Request)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if pattern != "GET /api/version" && pattern != "POST /api/sessions" && (c.session == "" || r.Header.Get("X-API-Session") != c.session) {
				refuse(w, r, http.StatusForbidden, 5, "The x-api-session header did not map to a known session.")
				return
			}
			do(w, r)
		})
	}
	list := func(pattern, member string, all func(r *http.Request) any) {
		handle(pattern, func(w http.ResponseWriter, r *http.Request) {
			what := all(r)
			if member != "" {
				what = map[string]any{member: what}
			}
			reply(w, http.StatusOK, what)
		})
	}
	handle("GET /api/version", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{
			"api-major-version": 4, "api-minor-version": 10, "hmc-name": c.estate.console, "hmc-version": "2.16.0",
		})
	})
	handle("POST /api/sessions", c.logon)
	handle("DELETE /api/sessions/this-session", func(w http.ResponseWriter, _ *http.Request) {
		c.session = ""
		w.WriteHeader(http.StatusNoContent)
	})
	list("GET /api/sessions/operations/get-notification-topics", "topics", func(*http.Request) any { return c.topics })
	list("GET /api/cpcs", "cpcs", func(*http.Request) any {
		all := []any{}
		for uri, status := range c.status {
			if uri, name, ok := strings.Cut(uri, " "); ok {
				all = append(all, map[string]any{"name": name, "object-uri": uri, "status": status, "dpm-enabled": name == c.estate.cpcs[0]})
			}
		}
		return all
	})
	for member, dpm := range map[string]bool{"partitions": true, "logical-partitions": false} {
		list("GET /api/console/operations/list-permitted-"+member, member, func(*http.Request) any {
			all := []any{}
			for _, p := range c.parts {
				if p.dpm == dpm {
					all = append(all, map[string]any{
						"name": p.name, "object-uri": p.uri, "status": c.status[p.uri], "cpc-name": p.cpc, "cpc-object-uri": c.cpcURI(p.cpc),
					})
				}
			}
			return all
		})
		handle("POST /api/"+member+"/{id}/operations/open-os-message-channel", func(w http.ResponseWriter, r *http.Request) {
			topic := fmt.Sprintf("%s.%dosm.%s", c.estate.userid, c.number, strings.ReplaceAll(r.PathValue("id"), "-", ""))
			if slices.ContainsFunc(c.topics, func(t map[string]any) bool { return t["topic-name"] == topic }) {
				refuse(w, r, http.StatusConflict, 331, "There is a channel for "+r.URL.Path+" already.")
				return
			}
			c.topics = append(c.topics, map[string]any{
				"topic-type": "os-message-notification", "topic-name": topic, "include-refresh-messages": true,
				"object-uri": strings.TrimSuffix(r.URL.Path, "/operations/open-os-message-channel"),
			})
			reply(w, http.StatusOK, map[string]any{"topic-name": topic})
		})
		list("GET /api/"+member+"/{id}/operations/list-os-messages", "os-messages", func(r *http.Request) any {
			i := slices.IndexFunc(c.parts, func(p *part) bool { return p.id == r.PathValue("id") })
			return append([]map[string]any{}, c.parts[max(i, 0)].messages...)
		})
	}
	list("GET /api/console/operations/get-audit-log", "", func(r *http.Request) any {
		from, _ := strconv.ParseInt(r.URL.Query().Get("begin-time"), 10, 64)
		all := []any{}
		for _, entry := range c.audit {
			if entry["event-time"].(int64) >= from {
				all = append(all, entry)
			}
		}
		return all
	})
	list("GET /api/console/operations/get-security-log", "", func(*http.Request) any { return []any{} })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, r, http.StatusNotFound, 1, "There is no "+r.URL.Path+" on "+c.estate.console+".")
	})
	return mux
}

func (c *console) cpcURI(name string) string {
	for uri := range c.status {
		if uri, of, ok := strings.Cut(uri, " "); ok && of == name {
			return uri
		}
	}
	return ""
}

func (c *console) logon(w http.ResponseWriter, r *http.Request) {
	var who struct{ Userid, Password string }
	if json.NewDecoder(r.Body).Decode(&who) != nil || who.Userid != c.estate.userid || who.Password != c.estate.password {
		refuse(w, r, http.StatusForbidden, 0, "Login failed for "+who.Userid+" with "+who.Password+".")
		return
	}
	c.number++
	c.session = strings.ToLower(rand.Text() + rand.Text())
	credential := strings.ToLower(rand.Text() + rand.Text())
	c.broker.AddUser(c.t, activemq.User{Name: c.session, Password: credential})
	name := fmt.Sprintf("%s.%d", c.estate.userid, c.number)
	c.topics = nil
	for _, kind := range [][2]string{{"object", ""}, {"job", "job"}, {"audit", "aud"}, {"security", "sec"}} {
		c.topics = append(c.topics, map[string]any{"topic-type": kind[0] + "-notification", "topic-name": name + kind[1]})
	}
	reply(w, http.StatusOK, map[string]any{
		"api-session": c.session, "session-credential": credential, "notification-topic": name, "job-notification-topic": name + "job",
		"api-major-version": 4, "api-minor-version": 10, "password-expires": -1,
	})
}

// publish has the broker tell something to who is subscribed to the topic of the session that ends in suffix.
func (c *console) publish(p *activemq.Publisher, suffix, kind string, headers map[string]string, body any) {
	c.t.Helper()
	c.mu.Lock()
	topic := fmt.Sprintf("%s.%d%s", c.estate.userid, c.number, suffix)
	all := map[string]string{
		"notification-type": kind, "session-sequence-nr": strconv.Itoa(c.sequences[topic]), "global-sequence-nr": strconv.Itoa(c.global),
	}
	c.sequences[topic]++
	c.global++
	c.mu.Unlock()
	maps.Copy(all, headers)
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			c.t.Fatal(err)
		}
	}
	p.Publish(c.t, topic, all, text)
}

func of(class, name, uri string) map[string]string {
	return map[string]string{"class": class, "name": name, "object-uri": uri, "object-id": uri[strings.LastIndexByte(uri, '/')+1:]}
}

// write has an operating system write messages; told says whether they are published as well.
func (c *console) write(publisher *activemq.Publisher, p *part, told bool, texts ...string) {
	c.t.Helper()
	var now []any
	c.mu.Lock()
	for _, text := range texts {
		m := map[string]any{
			"sequence-number": len(p.messages), "message-id": "0", "message-text": text, "os-name": nil, "timestamp": -1, "sound-alarm": false,
			"is-priority": false, "is-held": false, "prompt-text": "",
		}
		p.messages = append(p.messages, m)
		m = maps.Clone(m)
		m["is-refresh"] = false
		now = append(now, m)
	}
	c.mu.Unlock()
	class := "logical-partition"
	if p.dpm {
		class = "partition"
	}
	if told {
		c.publish(publisher, "osm."+strings.ReplaceAll(p.id, "-", ""), "os-message", of(class, p.name, p.uri), map[string]any{"os-messages": now})
	}
}

// become changes a status.
func (c *console) become(publisher *activemq.Publisher, p *part, status string) {
	c.t.Helper()
	c.mu.Lock()
	old := c.status[p.uri]
	c.status[p.uri] = status
	c.mu.Unlock()
	class := "logical-partition"
	if p.dpm {
		class = "partition"
	}
	c.publish(publisher, "", "status-change", of(class, p.name, p.uri), map[string]any{"change-reports": []any{map[string]any{
		"old-status": old, "old-additional-status": nil, "new-status": status, "new-additional-status": nil,
	}}})
}

// TestReplayOfActiveMQ captures what a daemon and Apache ActiveMQ, behind a Web Services API that has nothing of the simulator, say
// to each other in three estates; looks for whatever belongs to the estate in the capture; and plays it to another daemon, which
// makes the same events.
func TestReplayOfActiveMQ(t *testing.T) {
	t.Parallel()
	authority := certs.NewAuthority(t)
	certificate := authority.Issue(t, certs.Request{})
	broker := activemq.Start(t, activemq.Options{Authority: authority, Certificate: &certificate})
	publisher := broker.Publisher(t)
	for _, name := range slices.Sorted(maps.Keys(estates)) {
		t.Run(name, func(t *testing.T) {
			e := estates[name]
			c := startConsole(t, &e, broker, certificate)
			r := newTape()
			d := start(t, c, e.userid, e.password, r.tap())
			followed := func() {
				t.Helper()
				waitFor(t, "channels", func() bool {
					all := d.bridge.Status().HMCs
					return len(all) > 0 && all[0].Connected && all[0].OSMessages.Followed == len(c.parts)
				})
			}
			followed()
			first, second := c.parts[0], c.parts[1]
			for i, text := range e.texts {
				c.write(publisher, c.parts[i], true, text, text+" again")
			}
			c.write(publisher, first, true, e.hidden()...)
			entry := map[string]any{
				"event-time": time.Now().UnixMilli(), "event-id": "1234", "event-name": "", "userid": e.userid, "user-uri": "/api/users/" + uuid(),
				"event-message": "User " + e.userid + " has deactivated " + first.name + " from 10.77.21.5", "event-details": []any{},
				"event-data-items": []any{
					map[string]any{"data-item-number": 0, "data-item-type": "string", "data-item-value": first.name},
					map[string]any{"data-item-number": 1, "data-item-type": "long", "data-item-value": 771521},
				},
			}
			c.mu.Lock()
			c.audit = append(c.audit, entry)
			c.mu.Unlock()
			c.publish(publisher, "aud", "log-entry", nil, map[string]any{"log-entries": []any{entry}})
			waitFor(t, "the entry", func() bool { return d.count("log-entry") == 1 })
			c.become(publisher, first, "stopped")
			c.become(publisher, second, "not-operating")
			c.publish(publisher, "", "property-change", of("partition", first.name, first.uri), map[string]any{"change-reports": []any{map[string]any{
				"property-name": "description", "old-value": "of " + e.cpcs[0], "new-value": "for " + e.userid,
			}}})
			c.publish(publisher, "job", "job-completion", map[string]string{"job-uri": "/api/jobs/" + uuid()}, nil)
			inventory := of("nic", "nic of "+first.name, first.uri)
			inventory["action"], inventory["element-uri"] = "add", first.uri+"/nics/"+uuid()
			c.publish(publisher, "", "inventory-change", inventory, nil)
			waitFor(t, "the inventory", func() bool { return d.count("inventory-change") == 1 })
			c.mu.Lock()
			for topic := range c.sequences {
				c.sequences[topic] += 2
			}
			c.mu.Unlock()
			c.become(publisher, first, "active")
			waitFor(t, "gap", func() bool { return d.count("bridge-gap") == 1 })

			c.cut()
			waitFor(t, "loss", func() bool { return d.count("bridge-disconnected") == 1 })
			c.write(publisher, second, false, "written while nobody looked: "+e.texts[1])
			waitFor(t, "reconnection", func() bool { return d.count("bridge-connected") == 2 })
			followed()
			c.become(publisher, first, "degraded")
			waitFor(t, "the second gap", func() bool { return d.count("bridge-gap") == 2 })

			c.forget()
			c.cut()
			waitFor(t, "another session", func() bool { return d.count("bridge-connected") == 3 })
			followed()
			c.become(publisher, first, "active")
			waitFor(t, "the third gap", func() bool { return d.count("bridge-gap") == 3 })
			// Nothing is fetched any more: this one does not come in a list first.
			c.write(publisher, first, true, "after all: "+e.texts[0])
			waitFor(t, "the last message", func() bool {
				return slices.ContainsFunc(d.all(), func(ev event.Event) bool {
					return ev.Origin == "live" && strings.Contains(string(ev.Body), "after all")
				})
			})
			d.stop()
			for _, kind := range []string{"os-message", "status-change", "property-change", "inventory-change", "job-completion", "log-entry"} {
				if d.count(kind) == 0 {
					t.Errorf("no %s was made", kind)
				}
			}
			ids := []string{first.id, second.id, strings.TrimPrefix(c.cpcURI(e.cpcs[0]), "/api/cpcs/"), "771521"}
			replayed(t, captured(t, r, e.password, e.own(ids...), e.userid, "127.0.0.1"), name != "words", d.all())
		})
	}
}
