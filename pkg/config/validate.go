package config

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/secret"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/trust"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/units"
)

// maxName keeps names fit for labels, file names and tables.
const maxName = 64

// nameCharacters are what names, and most of all else that has one, consist of.
const nameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// errorf records a problem that no type can express. It stays silent about a value that has been
// reported already.
func (d *decoder) errorf(path, format string, args ...any) {
	if !d.failed(path) {
		d.fail(d.lineOf(path), path, format, args...)
	}
}

// warnf records something that is allowed but probably not meant.
func (d *decoder) warnf(path, format string, args ...any) {
	d.warnings = append(d.warnings, d.newError(d.lineOf(path), path, format, args...))
}

// check records what is wrong with a value, and reports whether nothing is.
func (d *decoder) check(path, wrong string) bool {
	if wrong != "" {
		d.errorf(path, "%s", wrong)
	}
	return wrong == ""
}

// under returns a function that gives the paths of the keys below path.
func under(path string) func(key string) string {
	return func(key string) string { return join(path, key) }
}

// item is the path of entry i of a list.
func item(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// lastKey is the last step of a path.
func lastKey(path string) string { return path[strings.LastIndex(path, ".")+1:] }

// validate checks all that a type does not, gives the defaults that depend on other keys, makes
// paths absolute and reads the files that are named. Every check runs: one problem does not hide
// another.
func (d *decoder) validate(c *Config) {
	if len(c.HMCs) == 0 {
		d.errorf("hmcs", "is missing: name at least one HMC to watch")
	}
	if len(c.Sinks) == 0 {
		d.errorf("sinks", "is missing: name at least one place where events go, "+
			"such as {name: journal, log: {output: stderr}}")
	}
	seen := map[string]string{}
	for i := range c.HMCs {
		h, path := &c.HMCs[i], item("hmcs", i)
		d.name(join(path, "name"), h.Name, seen)
		d.hmc(path, h)
	}
	d.sameHosts(c.HMCs)
	from := &sources{
		hmcs: c.HMCs, heartbeats: c.HeartbeatInterval > 0, known: !d.failed("hmcs") && !d.badBelow["hmcs"],
	}
	seen = map[string]string{}
	for i := range c.Sinks {
		s, path := &c.Sinks[i], item("sinks", i)
		d.name(join(path, "name"), s.Name, seen)
		d.sink(path, s, from)
	}

	c.Rules = d.allRules(c.Rules, from)
	d.severity(&c.Severity, from)

	within(d, "storage.commit_interval", c.Storage.CommitInterval, 0, time.Minute)
	d.sizeOrNone("storage.max_bytes", c.Storage.MaxBytes)
	within(d, "storage.retain", c.Storage.Retain, 0, 10*365*24*time.Hour)
	d.sizeOrNone("storage.dead_letters_max_bytes", c.Storage.DeadLettersMaxBytes)
	d.cluster(c)
	within(d, "dedup.window", c.Dedup.Window, 0, 30*24*time.Hour)
	within(d, "dedup.max_ids", c.Dedup.MaxIDs, 0, 10_000_000)
	within(d, "flood.window", c.Flood.Window, 100*time.Millisecond, 5*time.Minute)
	within(d, "flood.min", c.Flood.Min, 2, 100_000)
	within(d, "estate.max_resources", c.Estate.MaxResources, 1, 1_000_000)
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
	case strings.Trim(name, nameCharacters) != "" || strings.ContainsAny(name[:1], "._-"):
		d.errorf(path, "may hold letters, digits, \".\", \"_\" and \"-\", "+
			"and must begin with a letter or digit, not %s", quote(name))
	case len(name) > maxName:
		d.errorf(path, "is longer than %d characters", maxName)
	}
}

func (d *decoder) hmc(path string, h *HMC) {
	at := under(path)
	// With topic_names there is no session whose topics could be asked for. An empty list is a
	// choice as well: only OS messages.
	if !d.has(at("topics")) && !d.has(at("topic_names")) {
		h.Topics = []string{TopicObject, TopicJob}
	}
	if h.Group == "" {
		h.Group = h.Name
	} else if h.Group != h.Name {
		d.word(at("group"), h.Group)
	}
	d.hosts(at("hosts"), h.Hosts)
	within(d, at("rest_port"), h.RESTPort, 1, 65535)
	within(d, at("stomp_port"), h.StompPort, 1, 65535)
	if h.RESTPort == h.StompPort {
		d.errorf(at("stomp_port"), "is the same as rest_port: they are two services (usually 61612 and 6794)")
	}
	d.tls(at("tls"), &h.TLS)
	d.credentials(path, h)
	d.topics(path, h)
	for i := range h.TopicNames {
		d.topicName(item(at("topic_names"), i), h.TopicNames, i)
	}
	within(d, at("rest_requests_per_minute"), h.RESTRequestsPerMinute, 1, 10_000)
	within(d, at("rest_timeout"), h.RESTTimeout, time.Second, time.Hour)
	if h.LogStart != LogStartNow && !h.followsLogs() && !d.has(at("topic_names")) && !d.failed(at("topics")) {
		d.errorf(at("log_start"), "is of the audit and security log, and topics has neither: "+
			"add one of them, or remove it")
	} else if now := time.Now(); h.LogStart.Since(now).After(now) {
		d.warnf(at("log_start"), "is in the future: the entries until then are never told")
	}
	d.eventLabels(at("labels"), h.Labels)
	d.stomp(at("stomp"), h)
}

func (d *decoder) hosts(path string, hosts []string) {
	if len(hosts) == 0 {
		d.errorf(path, "is missing: name the HMC, such as [hmc1.example.com]")
	}
	for i, host := range hosts {
		at := item(path, i)
		if first := slices.Index(hosts, host); d.check(at, checkHost(host)) && first < i {
			d.errorf(at, "is the same as %s", item(path, first))
		}
	}
}

// checkHost returns what is wrong with a host; "": nothing.
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
		return "must be an IPv6 address without brackets, " +
			"such as 2001:db8::1, not " + quote(host) + "; ports have keys of their own"
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
			strings.Trim(l, nameCharacters) != "" {
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
			key := fmt.Sprint(strings.ToLower(host), " ", hmcs[i].RESTPort, " ", hmcs[i].StompPort)
			first, ok := seen[key]
			if ok && first != i {
				d.warnf(item(join(item("hmcs", i), "hosts"), j),
					"%s is a host of hmcs[%d] as well: its notifications would arrive twice", host, first)
			} else {
				seen[key] = i
			}
		}
	}
}

// credentials checks that there is exactly one way to log on, and reads secrets from their files.
func (d *decoder) credentials(path string, h *HMC) {
	at := under(path)
	d.secret(at("password"), &h.Password, &h.PasswordFile)
	if secret.IsPlaceholder(h.Userid) {
		d.errorf(at("userid"), "is a placeholder, and nothing is put in its place: write the userid itself")
	}
	d.line(at("userid"), h.Userid)
	if s := h.Session; s != nil {
		d.secret(at("session.id"), &s.ID, &s.IDFile)
		d.secret(at("session.credential"), &s.Credential, &s.CredentialFile)
		d.needed(at("session.id"), s.ID, "give the session's id here, or a file with it as id_file")
		d.needed(at("session.credential"), s.Credential,
			"give the session-credential of the logon here, or a file with it as credential_file")
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
	d.passwordNeeded(path, h.Password)
}

// needed reports a secret that is missing, unless its file has been reported.
func (d *decoder) needed(path string, s Secret, do string) {
	if !s.IsSet() && !d.failed(path+"_file") {
		d.errorf(path, "is missing: %s", do)
	}
}

func (d *decoder) passwordNeeded(path string, password Secret) {
	d.needed(join(path, "password"), password, "name a file that holds it as password_file, or give it here")
}

func (d *decoder) topics(path string, h *HMC) {
	at := under(path)
	if d.has(at("topic_names")) {
		for key, given := range map[string]bool{
			"topics": len(h.Topics) > 0, "os_messages": len(h.OSMessages) > 0, "hardware_messages": h.HardwareMessages,
			"log_start": h.LogStart != LogStartNow,
		} {
			if given {
				d.errorf(at(key), "cannot be used with topic_names, "+
					"which does without the logon that would find them: remove one of them")
			}
		}
		if len(h.TopicNames) == 0 {
			d.errorf(at("topic_names"), "is empty: name at least one topic, or remove the key")
		}
		return
	}
	known := []string{TopicObject, TopicJob, TopicAudit, TopicSecurity}
	for i, t := range h.Topics {
		at := item(at("topics"), i)
		d.known(at, "topic", t, known, "; a topic by its own name goes under topic_names")
		if slices.Index(h.Topics, t) < i {
			d.errorf(at, "%s is given twice", t)
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
	at := under(path)
	s := h.Stomp
	const hour = time.Hour
	d.durationOrNone(at("connect_timeout"), s.ConnectTimeout, time.Millisecond, hour)
	if s.ConnectRetries < -1 {
		d.errorf(at("connect_retries"), "must be -1 (without end), 0 or more, not %d", s.ConnectRetries)
	}
	within(d, at("reconnect_sleep_initial"), s.ReconnectSleepInitial, time.Millisecond, hour)
	within(d, at("reconnect_sleep_increase"), s.ReconnectSleepIncrease, 0, 100)
	within(d, at("reconnect_sleep_max"), s.ReconnectSleepMax, time.Millisecond, 24*hour)
	if s.ReconnectSleepMax < s.ReconnectSleepInitial {
		d.errorf(at("reconnect_sleep_max"), "is shorter than reconnect_sleep_initial (%s)",
			units.FormatDuration(s.ReconnectSleepInitial))
	}
	within(d, at("reconnect_sleep_jitter"), s.ReconnectSleepJitter, 0, 100)
	d.durationOrNone(at("heartbeat_send_cycle"), s.HeartbeatSendCycle, 100*time.Millisecond, hour)
	d.durationOrNone(at("heartbeat_receive_cycle"), s.HeartbeatReceiveCycle, 100*time.Millisecond, hour)
	within(d, at("heartbeat_receive_check"), s.HeartbeatReceiveCheck, 0, 100)
	if !d.failed(path) && !d.badBelow[path] {
		if err := s.Validate(); err != nil {
			d.errorf(path, "%s", err)
		}
	}
}

// kind is the part of a sink that is of its kind.
type kind interface {
	// check validates it; path is its own, s the sink that it is of.
	check(d *decoder, path string, s *Sink)
}

// batched is a kind that has batches by default.
type batched interface{ batch() Batch }

// batchDefault gives a sink the batch of its kind, as far as it has none of its own.
func (d *decoder) batchDefault(path string, s *Sink, k kind) {
	of, ok := k.(batched)
	if !ok || d.has(join(path, "max_events")) {
		return
	}
	wait := s.Batch.MaxWait
	if s.Batch = of.batch(); d.has(join(path, "max_wait")) {
		s.Batch.MaxWait = wait
	}
}

func (d *decoder) sink(path string, s *Sink, from *sources) {
	at := under(path)
	keys, kinds := s.kinds()
	switch {
	case len(keys) > 1:
		d.errorf(at(keys[1]), "a sink has one kind: this one has %s as well; make two sinks of them", keys[0])
	case len(keys) == 0 && !d.strange[path]:
		d.errorf(path, "has no kind: add one of %s", strings.Join(sinkKinds(), ", "))
	}
	for i, k := range kinds {
		d.batchDefault(at("batch"), s, k)
		k.check(d, at(keys[i]), s)
	}
	d.selection(path, s, from)
	within(d, at("timeout"), s.Timeout, time.Millisecond, time.Hour)
	within(d, at("concurrency"), s.Concurrency, 1, 1000)
	within(d, at("batch.max_events"), s.Batch.MaxEvents, 1, 10_000)
	within(d, at("batch.max_wait"), s.Batch.MaxWait, 0, time.Hour)
	if s.Batch.MaxEvents == 1 && s.Batch.MaxWait > 0 {
		d.warnf(at("batch.max_wait"), "has no effect while max_events is 1")
	}
	within(d, at("retry.initial"), s.Retry.Initial, time.Millisecond, 24*time.Hour)
	within(d, at("retry.max"), s.Retry.Max, time.Millisecond, 24*time.Hour)
	if s.Retry.Max < s.Retry.Initial {
		d.errorf(at("retry.max"), "is shorter than initial (%s)", units.FormatDuration(s.Retry.Initial))
	}
	d.sizeOrNone(at("queue.max_bytes"), s.Queue.MaxBytes)
}

// sinkKinds lists the kinds of sinks there are.
func sinkKinds() (keys []string) {
	for f := range reflect.TypeFor[Sink]().Fields() {
		if f.Type.Implements(reflect.TypeFor[kind]()) {
			keys = append(keys, keyOf(f))
		}
	}
	return keys
}

// kinds returns the kinds that are set, and their keys.
func (s *Sink) kinds() (keys []string, kinds []kind) {
	for f, v := range reflect.ValueOf(s).Elem().Fields() {
		if k, ok := reflect.TypeAssert[kind](v); ok && !v.IsNil() {
			keys, kinds = append(keys, keyOf(f)), append(kinds, k)
		}
	}
	return keys, kinds
}

// Kind names the kind of the sink as its key in the file does: "webhook", "log".
func (s *Sink) Kind() string {
	keys, _ := s.kinds()
	return strings.Join(keys[:min(len(keys), 1)], "")
}

func (w *Webhook) check(d *decoder, path string, s *Sink) {
	at := under(path)
	d.secret(at("url"), &w.URL.secret, &w.URLFile)
	switch msg := checkURL(w.URL); {
	case !w.URL.IsSet():
		d.needed(at("url"), w.URL.secret, "give the address to post to, such as https://hooks.example.com/hmc")
	case msg != "" && w.URLFile != "":
		d.errorf(at("url_file"), "what it holds %s", msg)
	default:
		d.check(at("url"), msg)
	}
	if !slices.Contains([]string{FormatJSON, FormatCloudEvents, FormatTemplate}, w.Format) {
		d.errorf(at("format"), "must be json, cloudevents or template, not %s", quote(w.Format))
	}
	d.template(path, w, s.Batch.MaxEvents > 1)
	d.secret(at("secret"), &w.Secret, &w.SecretFile)
	if w.Secret.IsSet() {
		where := at("secret")
		if w.SecretFile != "" {
			where += "_file"
		}
		d.signingKey(where, w.Secret)
	}
	d.signingSecrets(path, w)
	d.oneOf(at("compression"), w.Compression, CompressionNone, CompressionGzip)
	d.httpConfig(at("http_config"), &w.HTTPConfig)
	if u, err := url.Parse(w.URL.Expose()); err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
		d.warnf(at("url"), "is http: events and their signature travel unencrypted")
	}
}

// signingSecrets checks the lists of secrets, and reads those that are in files.
func (d *decoder) signingSecrets(path string, w *Webhook) {
	seen := map[string]string{w.Secret.Expose(): "secret"}
	check := func(at string, s Secret) {
		d.signingKey(at, s)
		if first, ok := seen[s.Expose()]; ok {
			d.errorf(at, "is the same as %s", first)
		}
		seen[s.Expose()] = at
	}
	for i, s := range w.Secrets {
		at := item(join(path, "secrets"), i)
		if !s.IsSet() {
			d.errorf(at, "is empty")
			continue
		}
		d.inlineSecret(at, s, "secret_files")
		check(at, s)
	}
	for i := range w.SecretFiles {
		at := item(join(path, "secret_files"), i)
		var s Secret
		if d.secretFile(at, &s, &w.SecretFiles[i]); s.IsSet() {
			check(at, s)
			w.Secrets = append(w.Secrets, s)
		}
	}
}

// signingKey checks a secret that signs requests.
func (d *decoder) signingKey(path string, s Secret) {
	switch key, err := secret.SigningKey(s.Expose()); {
	case err != nil:
		d.errorf(path, "%s", err)
	case len(key) < recommendedKeyBytes:
		d.warnf(path, "is a key of %d bytes: the Standard Webhooks specification asks for at least %d random ones",
			len(key), recommendedKeyBytes)
	}
}

// checkURL returns what is wrong with an address, without showing it; "": nothing.
func checkURL(address URL) string {
	u, err := url.Parse(address.Expose())
	if err != nil {
		return "is not a valid URL" // err quotes it
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "must begin with https:// or http://"
	case u.User != nil:
		return "must not hold a userid or password: they would leak through logs of proxies and servers; " +
			"sign the requests with secret instead"
	case u.Hostname() == "":
		return "has no host: write https://HOST/PATH"
	case u.Port() != "" && !isPort(u.Port()):
		return wrongPort
	case u.Fragment != "":
		return "must not have a fragment (#...): it is never sent"
	case secret.HasPlaceholder(address.Expose()):
		return "holds a placeholder, and nothing is put in its place"
	}
	return ""
}

const wrongPort = "has a port that is not between 1 and 65535"

func isPort(s string) bool {
	port, err := strconv.Atoi(s)
	return err == nil && port >= 1 && port <= 65535
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func (l *Log) check(d *decoder, path string, _ *Sink) {
	at := under(path)
	d.oneOf(at("format"), l.Format, FormatJSON, FormatText)
	within(d, at("max_files"), l.MaxFiles, 1, 1000)
	d.sizeOrNone(at("max_size"), l.MaxSize)
	if l.MaxSize > 0 && (l.Output == OutputStdout || l.Output == OutputStderr) {
		d.errorf(at("max_size"), "is for a file: nothing else can be rotated")
	}
	switch given := l.Output; given {
	case "":
		d.errorf(at("output"), "is empty: write stderr, stdout or the path of a file")
	case OutputStderr, OutputStdout:
	default:
		if to := strings.ToLower(given); to == OutputStderr || to == OutputStdout || given[0] == '~' ||
			strings.Contains(given, "$") {
			d.errorf(at("output"), "must be stderr, stdout, or a path as it is: nothing is put in the place of ~ or $")
		}
		l.Output, _ = d.resolve(given)
		if info, err := os.Stat(l.Output); strings.HasSuffix(given, "/") || err == nil && info.IsDir() {
			d.errorf(at("output"), "is a directory: name a file in it, such as %s", filepath.Join(given, "events.log"))
		} else if _, err := os.Stat(filepath.Dir(l.Output)); err != nil {
			d.warnf(at("output"), "is in a directory that is not there, without which the daemon does not start")
		}
		if other, ok := d.logs[l.Output]; ok {
			d.errorf(at("output"), "is the file of %s as well: two sinks would write into each other's lines", other)
		}
		d.logs[l.Output] = parent(path)
	}
}

// secret checks one secret and the key with _file that may stand in its place, and reads that file.
func (d *decoder) secret(path string, s *Secret, file *string) {
	key := lastKey(path)
	inline, fromFile := d.has(path), d.has(path+"_file")
	switch {
	case inline && fromFile:
		d.errorf(path+"_file", "and %s are both given: keep one of them", key)
	case inline && !s.IsSet():
		d.errorf(path, "is empty")
	case inline:
		d.inlineSecret(path, *s, key+"_file")
	case fromFile:
		d.secretFile(path+"_file", s, file)
	}
}

// inlineSecret checks a secret that stands in the configuration itself.
func (d *decoder) inlineSecret(path string, s Secret, better string) {
	if secret.IsPlaceholder(s.Expose()) {
		d.errorf(path, "is a placeholder, and nothing is put in its place: environment variables are not looked at; "+
			"name a file that holds the secret as %s", better)
	}
	d.line(path, s.Expose())
	d.warnInline(path, better)
}

// warnInline warns of a secret in a configuration that everybody can read.
func (d *decoder) warnInline(path, better string) {
	if d.mode&0o004 != 0 {
		d.warnf(path, "stands in a file that every user of this machine can read: chmod o-r %s, or use %s",
			d.file, better)
	}
}

// secretFile reads a secret from its file. One newline at the end does not belong to it.
func (d *decoder) secretFile(path string, s *Secret, file *string) {
	text, shown, ok := d.read(path, file, maxSecretFile, true)
	text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	switch msg := checkLine(text); {
	case !ok:
	case text == "":
		d.errorf(path, "%s is empty", shown)
	case msg != "":
		d.errorf(path, "%s: %s", shown, msg)
	default:
		d.doubtFile(path, shown, text)
		*s = NewSecret(text)
	}
}

// doubtFile warns of what a file holds that is hardly the secret that it is for.
func (d *decoder) doubtFile(path, shown, text string) {
	if secret.IsPlaceholder(text) {
		d.warnf(path, "%s holds a placeholder, and nothing is put in its place: write the secret into it", shown)
	} else if doubt := secret.Doubt(text); doubt != "" {
		d.warnf(path, "%s %s", shown, doubt)
	}
}

// read makes the path of a file absolute, and returns its contents and its name for errors. ok is
// false where there is none, or where an error was reported. It warns of a secret all can read.
func (d *decoder) read(path string, file *string, limit int64, secret bool) (text, shown string, ok bool) {
	if *file == "" {
		if d.has(path) {
			d.errorf(path, "is empty: name a file")
		}
		return "", "", false
	}
	given := *file
	*file, shown = d.resolve(given)
	data, mode, err := readFile(*file, limit)
	if err != nil {
		if secret && errors.Is(err, fs.ErrNotExist) && !strings.ContainsAny(given, "/.") {
			shown = "what it names" // which may be the secret itself
		}
		d.errorf(path, "%s %s", shown, err)
		return "", shown, false
	}
	if secret && mode&0o004 != 0 {
		d.warnf(path, "%s can be read by every user of this machine: chmod o-r %s", shown, shown)
	}
	return string(data), shown, true
}

// line checks that a text of the file fits in one line of a request. It does not show the text.
func (d *decoder) line(path, text string) {
	d.check(path, checkLine(text))
	if doubt := secret.Doubt(text); doubt != "" {
		d.warnf(path, "%s", doubt)
	}
}

// checkLine returns why a text cannot be in a header; "": it can.
func checkLine(text string) string {
	switch {
	case !utf8.ValidString(text):
		return "is not UTF-8 text"
	case strings.HasPrefix(text, "\ufeff"):
		return "begins with a byte order mark (EF BB BF), which some editors write: save it as UTF-8 without one"
	case strings.ContainsAny(text, "\r\n"):
		return "must be a single line"
	case strings.ContainsFunc(text, unicode.IsControl):
		return "must not hold control characters"
	}
	return ""
}

// tls makes the path of the CA file absolute, and reads and checks the certificates in it.
func (d *decoder) tls(path string, t *TLS) {
	at := under(path)
	switch {
	case t.InsecureSkipVerify && t.CAFile != "":
		d.errorf(at("insecure_skip_verify"), "makes ca_file useless: remove one of them")
	case t.InsecureSkipVerify:
		d.warnf(at("insecure_skip_verify"), "the server's certificate is not verified: "+
			"whoever is on the way can read the password and make up events")
	}
	if t.ServerName != "" {
		d.check(at("server_name"), checkHost(t.ServerName))
	}
	if t.CAFile == "" {
		return
	}
	text, shown, ok := d.read(at("ca_file"), &t.CAFile, maxCAFile, false)
	if !ok {
		return
	}
	certs, err := trust.Certificates([]byte(text))
	if err != nil {
		d.errorf(at("ca_file"), "%s %s", shown, err)
		return
	}
	t.ca = text
	for _, c := range certs {
		d.warnExpired(at("ca_file"), shown, c)
	}
}

func (d *decoder) warnExpired(path, file string, c *x509.Certificate) {
	if c != nil && time.Now().After(c.NotAfter) {
		d.warnf(path, "the certificate of %s in %s expired on %s",
			trust.Subject(c), filepath.Base(file), trust.Day(c.NotAfter))
	}
}

// keyPair checks a certificate, which is in a file, with its key.
func (d *decoder) keyPair(path, file, cert, key string) bool {
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil { // it shows nothing of the certificate and the key
		d.errorf(path, "cannot be used with its key: %s", strings.TrimPrefix(err.Error(), "tls: "))
		return false
	}
	d.warnExpired(path, file, pair.Leaf)
	return true
}

// within checks a number. What is out of its limits is a mistake of units or digits.
func within[T cmp.Ordered](d *decoder, path string, v, low, high T) {
	if v < low || v > high {
		d.errorf(path, "must be between %s and %s, not %s", written(low), written(high), written(v))
	}
}

// written is a number as it stands in the file.
func written(v any) string {
	if d, ok := v.(time.Duration); ok {
		return units.FormatDuration(d)
	}
	return fmt.Sprint(v)
}

// known checks a name of which there are only some, where one is easily misspelled.
func (d *decoder) known(path, what, name string, names []string, more string) {
	switch near := event.Nearest(name, names); {
	case slices.Contains(names, name):
	case near != "":
		d.errorf(path, "is not a %s: %s, did you mean %q?", what, quote(name), near)
	default:
		d.errorf(path, "must be one of %s, not %s%s", strings.Join(names, ", "), quote(name), more)
	}
}

func (d *decoder) durationOrNone(path string, v, low, high time.Duration) {
	if v != 0 && (v < low || v > high) {
		d.errorf(path, "must be 0s (none) or between %s and %s, not %s", written(low), written(high), written(v))
	}
}

func (d *decoder) sizeOrNone(path string, v Size) {
	if v != 0 && v < mib {
		d.errorf(path, "must be 0 (no limit) or at least 1MiB, not %s", v)
	}
}
