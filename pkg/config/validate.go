package config

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// maxName keeps names fit for labels, file names and tables.
const maxName = 64

// errorf records a problem that no type can express. It stays silent about a value that has been
// reported already.
func (d *decoder) errorf(path, format string, args ...any) {
	if !d.failed(path) {
		d.fail(d.lineOf(path), path, format, args...)
	}
}

// warnf records something that is allowed but probably not meant.
func (d *decoder) warnf(path, format string, args ...any) {
	d.warnings = append(d.warnings, &Error{File: d.file, Line: d.lineOf(path), Path: path, Msg: fmt.Sprintf(format, args...)})
}

func hmcPath(i int, key string) string  { return join(fmt.Sprintf("hmcs[%d]", i), key) }
func sinkPath(i int, key string) string { return join(fmt.Sprintf("sinks[%d]", i), key) }

// validate checks all that a type does not, makes paths absolute and reads the files that are
// named. Every check runs: one problem does not hide another.
func (d *decoder) validate(c *Config, mode fs.FileMode) {
	if len(c.HMCs) == 0 {
		d.errorf("hmcs", "is missing: name at least one HMC to watch")
	}
	if len(c.Sinks) == 0 {
		d.errorf("sinks", "is missing: name at least one place where events go, such as {name: journal, log: {output: stderr}}")
	}
	hmcNames, sinkNames := map[string]string{}, map[string]string{}
	for i := range c.HMCs {
		d.name(hmcPath(i, "name"), c.HMCs[i].Name, hmcNames)
		d.hmc(hmcPath(i, ""), &c.HMCs[i], mode)
	}
	d.sameHosts(c.HMCs)
	files := map[string]string{}
	for i := range c.Sinks {
		d.name(sinkPath(i, "name"), c.Sinks[i].Name, sinkNames)
		d.sink(sinkPath(i, ""), &c.Sinks[i], c.HMCs, files, mode)
	}

	d.durationIn("storage.commit_interval", c.Storage.CommitInterval, 0, time.Minute)
	d.sizeOrNone("storage.max_bytes", c.Storage.MaxBytes)
	d.durationIn("dedup.window", c.Dedup.Window, 0, 30*24*time.Hour)
	d.intIn("dedup.max_ids", c.Dedup.MaxIDs, 0, 10_000_000)
	d.durationIn("flood.window", c.Flood.Window, 100*time.Millisecond, 5*time.Minute)
	d.intIn("flood.min", c.Flood.Min, 2, 100_000)
	d.intIn("estate.max_resources", c.Estate.MaxResources, 1, 1_000_000)
	if c.HeartbeatInterval != 0 && c.HeartbeatInterval < time.Second {
		d.errorf("heartbeat_interval", "must be 0s (none) or at least 1s")
	}
}

// name checks a name that becomes a label and part of file names.
func (d *decoder) name(path, name string, seen map[string]string) {
	if name == "" {
		d.errorf(path, "is missing: give a unique name, it becomes a label of the metrics")
		return
	}
	if first, ok := seen[name]; ok {
		d.errorf(path, "%s is the name of %s already: names must be unique", quote(name), first)
		return
	}
	seen[name] = parent(path)
	d.word(path, name)
}

// word checks the form of a name.
func (d *decoder) word(path, name string) {
	switch {
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" ||
		strings.ContainsAny(name[:1], "._-"):
		d.errorf(path, "may hold letters, digits, \".\", \"_\" and \"-\", and must begin with a letter or digit, not %s", quote(name))
	case len(name) > maxName:
		d.errorf(path, "is longer than %d characters", maxName)
	}
}

func (d *decoder) hmc(path string, h *HMC, mode fs.FileMode) {
	at := func(key string) string { return join(path, key) }

	d.hosts(at("hosts"), h.Hosts)
	d.intIn(at("rest_port"), h.RESTPort, 1, 65535)
	d.intIn(at("stomp_port"), h.StompPort, 1, 65535)
	if h.RESTPort == h.StompPort {
		d.errorf(at("stomp_port"), "is the same as rest_port: they are two services (usually 61612 and 6794)")
	}
	d.tls(at("tls"), &h.TLS)
	d.credentials(path, h, mode)
	d.topics(path, h)
	for i := range h.TopicNames {
		d.topicName(fmt.Sprintf("%s[%d]", at("topic_names"), i), h.TopicNames, i)
	}
	if h.Group != "" && h.Group != h.Name {
		d.word(at("group"), h.Group)
	}
	d.intIn(at("rest_requests_per_minute"), h.RESTRequestsPerMinute, 1, 10_000)
	d.stomp(at("stomp"), h)
}

func (d *decoder) hosts(path string, hosts []string) {
	if len(hosts) == 0 {
		d.errorf(path, "is missing: name the HMC, such as [hmc1.example.com]")
	}
	for i, host := range hosts {
		at := fmt.Sprintf("%s[%d]", path, i)
		if msg := checkHost(host); msg != "" {
			d.errorf(at, "%s", msg)
		} else if first := slices.Index(hosts, host); first < i {
			d.errorf(at, "is the same as %s[%d]", path, first)
		}
	}
}

// checkHost says what is wrong with a host; "": nothing.
func checkHost(host string) string {
	if _, err := netip.ParseAddr(host); err == nil {
		return ""
	}
	name, port, cut := strings.Cut(host, ":")
	_, err := strconv.ParseUint(port, 10, 64)
	switch {
	case host == "":
		return "is empty: give a DNS name or an IP address"
	case strings.Contains(host, "@"): // not shown: it may hold a password
		return "must be only a name or an address: userid and password have keys of their own"
	case strings.Contains(host, "://"):
		return "must be only a name or an address, not a URL: " + quote(host) + "; ports have keys of their own"
	case strings.HasPrefix(host, "["):
		return "must be an IPv6 address without brackets, such as 2001:db8::1, not " + quote(host) + "; ports have keys of their own"
	case cut && err == nil:
		return "must be only a name or an address: write " + name + ", and the port as rest_port and stomp_port"
	case cut:
		return "is not a valid IPv6 address: " + quote(host)
	case !isDNSName(host):
		return "is not a valid DNS name or IP address: " + quote(host)
	}
	return ""
}

// isDNSName also refuses 10.0.0.256: no top-level domain is a number.
func isDNSName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' ||
			strings.Trim(l, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return false
		}
	}
	return len(s) <= 253 && strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// sameHosts warns of two HMCs that are one. With topic_names several entries for one HMC make
// sense: other topics each.
func (d *decoder) sameHosts(hmcs []HMC) {
	seen := map[string]int{}
	for i := range hmcs {
		if len(hmcs[i].TopicNames) > 0 {
			continue
		}
		for j, host := range hmcs[i].Hosts {
			key := net.JoinHostPort(strings.ToLower(host), strconv.Itoa(hmcs[i].RESTPort)) + " " + strconv.Itoa(hmcs[i].StompPort)
			first, ok := seen[key]
			if ok && first != i {
				d.warnf(fmt.Sprintf("%s[%d]", hmcPath(i, "hosts"), j),
					"%s is a host of hmcs[%d] as well: its notifications would arrive twice", host, first)
			} else {
				seen[key] = i
			}
		}
	}
}

// credentials checks that there is exactly one way to log on, and reads secrets from their files.
func (d *decoder) credentials(path string, h *HMC, mode fs.FileMode) {
	at := func(key string) string { return join(path, key) }

	d.secret(at("password"), &h.Password, &h.PasswordFile, mode)
	d.line(at("userid"), h.Userid)
	if h.Session != nil {
		s := h.Session
		d.secret(at("session.id"), &s.ID, &s.IDFile, mode)
		d.secret(at("session.credential"), &s.Credential, &s.CredentialFile, mode)
		if !s.ID.IsSet() && !d.failed(at("session.id_file")) {
			d.errorf(at("session.id"), "is missing: give the session's id here, or a file with it as id_file")
		}
		if !s.Credential.IsSet() && !d.failed(at("session.credential_file")) {
			d.errorf(at("session.credential"), "is missing: give the session-credential of the logon here, or a file with it as credential_file")
		}
		for _, key := range []string{"userid", "password", "password_file"} {
			if d.has(at(key)) {
				d.errorf(at(key), "is of no use with a session, which replaces the logon: remove one of them")
			}
		}
		return
	}
	if d.failed(at("session")) {
		return
	}
	if h.Userid == "" {
		d.errorf(at("userid"), "is missing: give the HMC userid to log on with")
	}
	if !h.Password.IsSet() && !d.failed(at("password_file")) {
		d.errorf(at("password"), "is missing: name a file that holds it as password_file, or give it here")
	}
}

func (d *decoder) topics(path string, h *HMC) {
	at := func(key string) string { return join(path, key) }

	if d.has(at("topic_names")) {
		const instead = "cannot be used with topic_names, which does without the logon that would find them: remove one of them"
		if len(h.Topics) > 0 {
			d.errorf(at("topics"), instead)
		}
		if len(h.OSMessages) > 0 {
			d.errorf(at("os_messages"), instead)
		}
		if h.HardwareMessages {
			d.errorf(at("hardware_messages"), instead)
		}
		if len(h.TopicNames) == 0 {
			d.errorf(at("topic_names"), "is empty: name at least one topic, or remove the key")
		}
		return
	}
	known := []string{TopicObject, TopicJob, TopicAudit, TopicSecurity}
	for i, t := range h.Topics {
		tp := fmt.Sprintf("%s[%d]", at("topics"), i)
		switch {
		case !slices.Contains(known, t) && nearest(t, known) != "":
			d.errorf(tp, "is not a topic: %s, did you mean %q?", quote(t), nearest(t, known))
		case !slices.Contains(known, t):
			d.errorf(tp, "must be one of %s, not %s; a topic by its own name goes under topic_names", strings.Join(known, ", "), quote(t))
		case slices.Index(h.Topics, t) < i:
			d.errorf(tp, "%s is given twice", t)
		}
	}
	if len(h.Topics) == 0 && len(h.OSMessages) == 0 {
		d.errorf(at("topics"), "is empty, and so is os_messages: there is nothing to receive")
	}
}

// topicName checks a name of 1 to 128 characters, as the HMC's API documents it.
func (d *decoder) topicName(path string, names []string, i int) {
	name := names[i]
	rest, prefixed := strings.CutPrefix(name, "/topic/")
	switch {
	case name == "":
		d.errorf(path, "is empty")
	case prefixed:
		d.errorf(path, "must be without /topic/: write %s", quote(rest))
	case len(name) > 128:
		d.errorf(path, "is longer than 128 characters, so it is no topic of an HMC")
	case slices.Index(names, name) < i:
		d.errorf(path, "%s is given twice", quote(name))
	default:
		d.line(path, name)
	}
}

func (d *decoder) stomp(path string, h *HMC) {
	at := func(key string) string { return join(path, key) }
	s := h.Stomp
	const hour = time.Hour
	d.durationOrNone(at("connect_timeout"), s.ConnectTimeout, time.Millisecond, hour)
	if s.ConnectRetries < -1 {
		d.errorf(at("connect_retries"), "must be -1 (without end), 0 or more, not %d", s.ConnectRetries)
	}
	d.durationIn(at("reconnect_sleep_initial"), s.ReconnectSleepInitial, time.Millisecond, hour)
	d.floatIn(at("reconnect_sleep_increase"), s.ReconnectSleepIncrease, 0, 100)
	d.durationIn(at("reconnect_sleep_max"), s.ReconnectSleepMax, time.Millisecond, 24*hour)
	if s.ReconnectSleepMax < s.ReconnectSleepInitial {
		d.errorf(at("reconnect_sleep_max"), "is shorter than reconnect_sleep_initial (%s)", formatDuration(s.ReconnectSleepInitial))
	}
	d.floatIn(at("reconnect_sleep_jitter"), s.ReconnectSleepJitter, 0, 100)
	d.durationOrNone(at("heartbeat_send_cycle"), s.HeartbeatSendCycle, 100*time.Millisecond, hour)
	d.durationOrNone(at("heartbeat_receive_cycle"), s.HeartbeatReceiveCycle, 100*time.Millisecond, hour)
	d.floatIn(at("heartbeat_receive_check"), s.HeartbeatReceiveCheck, 0, 100)
	if !d.failed(path) && !d.badBelow[path] {
		if err := s.Validate(); err != nil {
			d.errorf(path, "%s", err)
		}
	}
}

func (d *decoder) sink(path string, s *Sink, hmcs []HMC, files map[string]string, mode fs.FileMode) {
	at := func(key string) string { return join(path, key) }

	switch kinds := s.kinds(); {
	case len(kinds) > 1:
		d.errorf(at(kinds[1]), "a sink has one kind: this one has %s as well; make two sinks of them", kinds[0])
	case len(kinds) == 0 && !d.strange[path]:
		d.errorf(path, "has no kind: add one of %s", strings.Join(sinkKinds(), ", "))
	}
	if s.Webhook != nil {
		d.webhook(at("webhook"), s.Webhook, s.Batch.MaxEvents > 1, mode)
	}
	if s.Log != nil {
		d.log(at("log"), s.Log, files)
	}
	if s.Alertmanager != nil {
		d.alertmanager(at("alertmanager"), s, mode)
	}
	if s.NATS != nil {
		d.nats(at("nats"), s.NATS, mode)
	}
	if s.Kafka != nil {
		d.kafka(at("kafka"), s.Kafka, mode)
	}
	if s.Syslog != nil {
		d.syslog(at("syslog"), s.Syslog)
	}
	for i := range s.Match {
		d.matcher(fmt.Sprintf("%s[%d]", at("match"), i), &s.Match[i], hmcs)
	}
	for i := range s.Drop {
		d.matcher(fmt.Sprintf("%s[%d]", at("drop"), i), &s.Drop[i], hmcs)
	}
	d.durationIn(at("timeout"), s.Timeout, time.Millisecond, time.Hour)
	d.intIn(at("concurrency"), s.Concurrency, 1, 1000)
	d.intIn(at("batch.max_events"), s.Batch.MaxEvents, 1, 10_000)
	d.durationIn(at("batch.max_wait"), s.Batch.MaxWait, 0, time.Hour)
	if s.Batch.MaxEvents == 1 && s.Batch.MaxWait > 0 {
		d.warnf(at("batch.max_wait"), "has no effect while max_events is 1")
	}
	d.durationIn(at("retry.initial"), s.Retry.Initial, time.Millisecond, 24*time.Hour)
	d.durationIn(at("retry.max"), s.Retry.Max, time.Millisecond, 24*time.Hour)
	if s.Retry.Max < s.Retry.Initial {
		d.errorf(at("retry.max"), "is shorter than initial (%s)", formatDuration(s.Retry.Initial))
	}
	d.sizeOrNone(at("queue.max_bytes"), s.Queue.MaxBytes)
}

// sinkKinds lists the kinds of sinks there are.
func sinkKinds() []string {
	var kinds []string
	for f := range reflect.TypeFor[Sink]().Fields() {
		if f.Type.Kind() == reflect.Pointer {
			kinds = append(kinds, keyOf(f))
		}
	}
	return kinds
}

// kinds lists the kinds that are set.
func (s *Sink) kinds() []string {
	return slices.DeleteFunc(sinkKinds(), func(kind string) bool {
		field, ok := fieldByKey(reflect.ValueOf(s).Elem(), kind)
		return !ok || field.IsNil()
	})
}

func (d *decoder) webhook(path string, w *Webhook, batch bool, mode fs.FileMode) {
	at := func(key string) string { return join(path, key) }

	d.secret(at("url"), &w.URL.secret, &w.URLFile, mode)
	switch msg := checkURL(w.URL); {
	case !w.URL.IsSet() && d.failed(at("url_file")):
	case !w.URL.IsSet():
		d.errorf(at("url"), "is missing: give the address to post to, such as https://hooks.example.com/hmc")
	case msg != "" && w.URLFile != "":
		d.errorf(at("url_file"), "what it holds %s", msg)
	case msg != "":
		d.errorf(at("url"), "%s", msg)
	}
	switch w.Format {
	case FormatJSON, FormatCloudEvents, FormatTemplate:
	default:
		d.errorf(at("format"), "must be json, cloudevents or template, not %s", quote(w.Format))
	}
	d.template(path, w, batch)
	d.secret(at("secret"), &w.Secret, &w.SecretFile, mode)
	if w.Secret.IsSet() {
		where := "secret"
		if w.SecretFile != "" {
			where = "secret_file"
		}
		d.signingKey(at(where), w.Secret)
	}
	d.signingSecrets(path, w, mode)
	if w.Compression != CompressionNone && w.Compression != CompressionGzip {
		d.errorf(at("compression"), "must be none or gzip, not %s", quote(w.Compression))
	}
	d.httpConfig(at("http_config"), &w.HTTPConfig, mode)
	if u, err := url.Parse(w.URL.Expose()); err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
		d.warnf(at("url"), "is http: events and their signature travel unencrypted")
	}
}

// signingSecrets checks the lists of secrets, and reads those that are in files.
func (d *decoder) signingSecrets(path string, w *Webhook, mode fs.FileMode) {
	seen := map[string]string{w.Secret.Expose(): "secret"}
	check := func(at string, s Secret) {
		d.signingKey(at, s)
		if first, ok := seen[s.Expose()]; ok {
			d.errorf(at, "is the same as %s", first)
		}
		seen[s.Expose()] = at
	}
	for i, s := range w.Secrets {
		at := fmt.Sprintf("%s[%d]", join(path, "secrets"), i)
		if !s.IsSet() {
			d.errorf(at, "is empty")
			continue
		}
		d.inlineSecret(at, s, "secret_files", mode)
		check(at, s)
	}
	for i := range w.SecretFiles {
		at := fmt.Sprintf("%s[%d]", join(path, "secret_files"), i)
		if w.SecretFiles[i] == "" {
			d.errorf(at, "is empty: name a file")
			continue
		}
		var s Secret
		if d.secretFile(at, &s, &w.SecretFiles[i]); s.IsSet() {
			check(at, s)
			w.Secrets = append(w.Secrets, s)
		}
	}
}

// signingKey checks a secret that signs requests.
func (d *decoder) signingKey(path string, s Secret) {
	switch key, err := decodeSigningKey(s); {
	case err != nil:
		d.errorf(path, "%s", err)
	case len(key) < recommendedKeyBytes:
		d.warnf(path, "is a key of %d bytes: the Standard Webhooks specification asks for at least %d random ones", len(key), recommendedKeyBytes)
	}
}

// checkURL says what is wrong with the address of a webhook; "": nothing. It never shows the
// address.
func checkURL(address URL) string {
	u, err := url.Parse(address.Expose())
	if err != nil {
		return "is not a valid URL" // err quotes it
	}
	port, perr := strconv.Atoi(u.Port())
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "must begin with https:// or http://"
	case u.User != nil:
		return "must not hold a userid or password: they would leak through logs of proxies and servers; sign the requests with secret instead"
	case u.Hostname() == "":
		return "has no host: write https://HOST/PATH"
	case u.Port() != "" && (perr != nil || port < 1 || port > 65535):
		return "has a port that is not between 1 and 65535"
	case u.Fragment != "":
		return "must not have a fragment (#...): it is never sent"
	}
	return ""
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func (d *decoder) log(path string, l *Log, files map[string]string) {
	if l.Format != FormatJSON && l.Format != FormatText {
		d.errorf(join(path, "format"), "must be %s or %s, not %s", FormatJSON, FormatText, quote(l.Format))
	}
	d.intIn(join(path, "max_files"), l.MaxFiles, 1, 1000)
	d.sizeOrNone(join(path, "max_size"), l.MaxSize)
	if l.MaxSize > 0 && (l.Output == OutputStdout || l.Output == OutputStderr) {
		d.errorf(join(path, "max_size"), "is for a file: nothing else can be rotated")
	}
	at := join(path, "output")
	switch l.Output {
	case "":
		d.errorf(at, "is empty: write stderr, stdout or the path of a file")
	case OutputStderr, OutputStdout:
	default:
		l.Output, _ = d.resolve(l.Output)
		if other, ok := files[l.Output]; ok {
			d.errorf(at, "is the file of %s as well: two sinks would write into each other's lines", other)
		}
		files[l.Output] = parent(path)
	}
}

// matcher checks that a matcher can match at all: one that cannot is a mistake.
func (d *decoder) matcher(path string, m *Matcher, hmcs []HMC) {
	at := func(key string) string { return join(path, key) }

	if !d.filled[path] && !d.strange[path] {
		d.errorf(path, "has no keys: give at least one, such as type: [status-change]")
		return
	}
	d.closedSet(at("origin"), m.Origin, []string{
		event.OriginLive, event.OriginRefresh, event.OriginBackfill, event.OriginReconcile, event.OriginBridge,
	})
	d.closedSet(at("severity"), m.Severity, []string{event.SeverityInfo, event.SeverityWarning, event.SeverityCritical})
	names := make([]string, len(hmcs))
	for i := range hmcs {
		names[i] = hmcs[i].Name
	}
	if !d.failed("hmcs") && !d.badBelow["hmcs"] {
		d.closedSet(at("hmc"), m.HMC, names)
	}
	types := append(event.NotificationTypes(), bridgeTypes()...)
	for i, p := range m.Type {
		if near := nearest(p.source, types); p.re == nil && near != "" && !slices.Contains(types, p.source) {
			d.warnf(element(at("type"), m.Type, i), "no event of the type %s is known, did you mean %q?", quote(p.source), near)
		}
		if p.re == nil && p.source == event.TypeStatusChangeSummary {
			d.errorf(element(at("type"), m.Type, i), "is made for a sink with collapse of the %s events that it wants: select those", event.TypeStatusChange)
		}
	}
	d.onlyIn(path, m)
}

// onlyIn checks that the keys of a matcher can be in one event: some are of events of one type
// only.
func (d *decoder) onlyIn(path string, m *Matcher) {
	only := ""        // the type of the keys so far ...
	var before string // ... and the first of these keys
	for _, key := range []struct {
		name string
		set  bool
		typ  string
	}{
		{"status", m.Status.IsSet(), event.TypeStatusChange},
		{"property", m.Property.IsSet(), event.TypePropertyChange},
		{"user", m.User.IsSet(), event.TypeLogEntry},
		{"event_id", m.EventID.IsSet(), event.TypeLogEntry},
	} {
		switch at := join(path, key.name); {
		case !key.set:
		case only != "" && only != key.typ:
			d.errorf(at, "is of %s events and %s of %s events: no event has both", key.typ, before, only)
		case m.Type.IsSet() && !m.Type.Match(key.typ):
			d.errorf(at, "is of %s events, which type leaves out: nothing matches", key.typ)
		default:
			only, before = key.typ, key.name
		}
	}
}

// bridgeTypes are the types of events that the HMC's notifications do not have.
func bridgeTypes() []string {
	return []string{
		event.TypeBridgeConnected, event.TypeBridgeDisconnected, event.TypeBridgeGap, event.TypeBridgeHeartbeat,
		event.TypeBridgeTest, event.TypeStatusChangeSummary, event.TypeHardwareMessage,
	}
}

// element is the path of pattern i: a single one may stand without brackets.
func element(path string, p Patterns, i int) string {
	if len(p) == 1 {
		return path
	}
	return fmt.Sprintf("%s[%d]", path, i)
}

// closedSet checks that every pattern matches one of the values there can be.
func (d *decoder) closedSet(path string, patterns Patterns, values []string) {
	for i, p := range patterns {
		if !slices.ContainsFunc(values, p.Match) {
			d.errorf(element(path, patterns, i), "%s matches none of %s", quote(p.source), strings.Join(values, ", "))
		}
	}
}

// secret checks one secret and the key with _file that may stand in its place, and reads that file.
func (d *decoder) secret(path string, s *Secret, file *string, mode fs.FileMode) {
	key := path[strings.LastIndex(path, ".")+1:]
	filePath := path + "_file"
	inline, fromFile := d.has(path), d.has(filePath)
	switch {
	case inline && fromFile:
		d.errorf(filePath, "and %s are both given: keep one of them", key)
		return
	case inline:
		if !s.IsSet() {
			d.errorf(path, "is empty")
			return
		}
		d.inlineSecret(path, *s, key+"_file", mode)
	case fromFile && *file == "":
		d.errorf(filePath, "is empty: name a file")
	case fromFile && !d.failed(filePath):
		d.secretFile(filePath, s, file)
	}
}

// inlineSecret checks a secret that stands in the configuration itself.
func (d *decoder) inlineSecret(path string, s Secret, better string, mode fs.FileMode) {
	if msg := checkLine(s.Expose()); msg != "" {
		d.errorf(path, "%s", msg)
	}
	if mode&0o004 != 0 {
		d.warnf(path, "stands in a file that every user of this machine can read: chmod o-r %s, or use %s", d.file, better)
	}
}

// secretFile reads a secret from its file. One newline at the end does not belong to it.
func (d *decoder) secretFile(path string, s *Secret, file *string) {
	absolute, shown := d.resolve(*file)
	*file = absolute
	data, mode, err := readFile(absolute, maxSecretFile)
	if err != nil {
		d.errorf(path, "%s %s", shown, err)
		return
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch msg := checkLine(text); {
	case text == "":
		d.errorf(path, "%s is empty", shown)
		return
	case msg != "":
		d.errorf(path, "%s: %s", shown, msg)
		return
	}
	d.warnIfPublic(path, shown, mode)
	*s = NewSecret(text)
}

// warnIfPublic warns of a file with a secret in it that everybody can read.
func (d *decoder) warnIfPublic(path, shown string, mode fs.FileMode) {
	if mode&0o004 != 0 {
		d.warnf(path, "%s can be read by every user of this machine: chmod o-r %s", shown, shown)
	}
}

// line checks that a text of the file fits in one line of a request. It does not show the text.
func (d *decoder) line(path, text string) {
	if msg := checkLine(text); msg != "" {
		d.errorf(path, "%s", msg)
	}
}

// checkLine says what keeps a text out of a header; "": nothing.
func checkLine(text string) string {
	switch {
	case !utf8.ValidString(text):
		return "is not UTF-8 text"
	case strings.ContainsAny(text, "\r\n"):
		return "must be a single line"
	case strings.ContainsFunc(text, unicode.IsControl):
		return "must not hold control characters"
	}
	return ""
}

// tls makes the path of the CA file absolute, and reads and checks the certificates in it.
func (d *decoder) tls(path string, t *TLS) {
	at := func(key string) string { return join(path, key) }

	if t.InsecureSkipVerify {
		if t.CAFile != "" {
			d.errorf(at("insecure_skip_verify"), "makes ca_file useless: remove one of them")
		} else {
			d.warnf(at("insecure_skip_verify"), "the server's certificate is not verified: whoever is on the way can read the password and make up events")
		}
	}
	if msg := checkHost(t.ServerName); t.ServerName != "" && msg != "" {
		d.errorf(at("server_name"), "%s", msg)
	}
	if t.CAFile == "" {
		return
	}
	absolute, shown := d.resolve(t.CAFile)
	t.CAFile = absolute
	data, _, err := readFile(absolute, maxCAFile)
	if err != nil {
		d.errorf(at("ca_file"), "%s %s", shown, err)
		return
	}
	certs, err := parseCertificates(data)
	if err != nil {
		d.errorf(at("ca_file"), "%s %s", shown, err)
		return
	}
	t.ca = string(data)
	now := time.Now()
	for _, c := range certs {
		if now.After(c.NotAfter) {
			d.warnf(at("ca_file"), "the certificate of %s in %s expired on %s", subject(c), filepath.Base(shown), day(c.NotAfter))
		}
	}
}

// The limits of numbers. What is out of them is a mistake of units or digits.

func (d *decoder) intIn(path string, v, low, high int) {
	if v < low || v > high {
		d.errorf(path, "must be between %d and %d, not %d", low, high, v)
	}
}

func (d *decoder) floatIn(path string, v, low, high float64) {
	if v < low || v > high {
		d.errorf(path, "must be between %g and %g, not %g", low, high, v)
	}
}

func (d *decoder) durationIn(path string, v, low, high time.Duration) {
	if v < low || v > high {
		d.errorf(path, "must be between %s and %s, not %s", formatDuration(low), formatDuration(high), formatDuration(v))
	}
}

func (d *decoder) durationOrNone(path string, v, low, high time.Duration) {
	if v != 0 && (v < low || v > high) {
		d.errorf(path, "must be 0s (none) or between %s and %s, not %s", formatDuration(low), formatDuration(high), formatDuration(v))
	}
}

func (d *decoder) sizeOrNone(path string, v Size) {
	if v != 0 && v < mib {
		d.errorf(path, "must be 0 (no limit) or at least 1MiB, not %s", v)
	}
}
