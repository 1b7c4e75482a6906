package config

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"gopkg.in/yaml.v3"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/units"
)

// No way of printing shows a secret, also where it is deep within something else.
func TestSecretsNeverPrint(t *testing.T) {
	const password, token = "hunter2-Zq!", "T0KEN/abc"
	type wrapper struct {
		Secret  Secret
		Pointer *Secret
		URL     URL
		hidden  Secret // package fmt cannot call its methods
		hurl    URL
		Map     map[string]Secret
		Any     any
		HTTP    HTTPConfig
		hhttp   HTTPConfig
	}
	s, u := NewSecret(password), NewURL("https://hooks.example.com/"+token+"?key="+token)
	proxy, err := url.Parse("http://u:" + url.PathEscape(token) + "@h")
	if err != nil {
		t.Fatal(err)
	}
	h := NewHTTPConfig(promconfig.HTTPClientConfig{
		BasicAuth: &promconfig.BasicAuth{Password: password}, ProxyConfig: promconfig.ProxyConfig{ProxyURL: promconfig.URL{URL: proxy}},
		HTTPHeaders: &promconfig.Headers{Headers: map[string]promconfig.Header{"X": {Values: []string{token}}}},
	})
	h.files = s
	w := wrapper{s, &s, u, s, u, map[string]Secret{"a": s}, s, h, h}
	cfg := &Config{HMCs: []HMC{{Password: s, Session: &Session{ID: s, Credential: s}}}, Sinks: []Sink{{Webhook: &Webhook{URL: u, Secret: s, HTTPConfig: h}}}}

	var out bytes.Buffer
	for _, v := range []any{s, &s, u, &u, h, &h, w, &w, cfg, *cfg, cfg.HMCs, cfg.HMCs[0], cfg.Sinks[0].Webhook, errors.Join(fmt.Errorf("x: %v", s))} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%T", "%10.3s", "%U"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		for _, marshal := range []func(any) ([]byte, error){json.Marshal, yaml.Marshal, xml.Marshal} {
			data, err := marshal(v)
			fmt.Fprintf(&out, "%s %v\n", data, err)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
		for _, enc := range []zapcore.Encoder{
			zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()),
		} {
			log := zap.New(zapcore.NewCore(enc, zapcore.AddSync(&out), zap.DebugLevel))
			log.Info("m", zap.Any("v", v), zap.Reflect("r", v), zap.Stringer("s", s))
			log.Sugar().Infow("m", "v", v)
			log.Sugar().Infof("%v %+v", v, v)
		}
	}
	for _, secret := range []string{password, token, fmt.Sprintf("%x", password), fmt.Sprintf("%x", token), "hunter2", "T0KEN"} {
		if i := strings.Index(out.String(), secret); i >= 0 {
			t.Errorf("%q was printed: %s", secret, out.String()[max(0, i-200):i+20])
		}
	}
	if got := fmt.Sprint(s, u); got != "<secret> https://hooks.example.com/..." {
		t.Errorf("printed as %q", got)
	}
	if s.Expose() != password || !s.IsSet() || (Secret{}).IsSet() || (Secret{}).Expose() != "" || NewSecret("").IsSet() {
		t.Error("the secret itself is not there")
	}
}

func TestURLString(t *testing.T) {
	for address, want := range map[string]string{
		"https://h":                      "https://h",
		"https://h:8443/":                "https://h:8443",
		"https://h/services/T/B/token":   "https://h/...",
		"https://h/?token=x":             "https://h/...",
		"https://h/#token":               "https://h/...",
		"https://user:password@h/":       "https://h",
		"http://[::1]:80/x":              "http://[::1]:80/...",
		"token":                          hidden,
		"https://h/%zz":                  hidden,
		"":                               hidden,
		"mailto:somebody@example.com":    hidden,
		"https://h/a?password=x#y":       "https://h/...",
		"HTTPS://Hooks.Example.com/abc/": "https://Hooks.Example.com/...",
	} {
		if got := NewURL(address).String(); got != want {
			t.Errorf("%s is printed as %s, want %s", address, got, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for s, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "30s": 30 * time.Second, "1h30m": 90 * time.Minute, "1.5h": 90 * time.Minute, "250us": 250 * time.Microsecond,
		"7d": 7 * day, "1w": 7 * day, "1w2d12h": 9*day + 12*time.Hour, "168h": 7 * day, "0.5d": 12 * time.Hour, "100ms": 100 * time.Millisecond,
	} {
		if got, err := units.ParseDuration(s); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "1", "30", "s", "1 s", " 1s", "1s ", "1y", "1M", "-1s", "+1s", "1..5s", ".s", "1d1", "1e3s", "one", "1000000w", "106751d24h", "9223372036s9223372036s"} {
		if got, err := units.ParseDuration(s); err == nil {
			t.Errorf("%q is read as %v", s, got)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	for s, want := range map[string]string{"24h": "24h", "10m": "10m", "1h30m": "1h30m", "90s": "1m30s", "0s": "0s", "20h10m": "20h10m", "1h5s": "1h0m5s", "5ms": "5ms"} {
		d, err := time.ParseDuration(s)
		if got := units.FormatDuration(d); err != nil || got != want {
			t.Errorf("%s: %s, want %s (%v)", s, got, want, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]Size{
		"0": 0, "1": 1, "1048576": mib, "10B": 10, "1KiB": kib, "512MiB": 512 * mib, "1GiB": gib, "1.5GiB": gib + 512*mib,
		"2TiB": 2048 * gib, "1 GiB": gib, "9223372036854775807": math.MaxInt64,
	} {
		if got, err := units.ParseSize(s); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "-1", "1.5", "GiB", "1GB", "1G", "1gib", "9223372036854775808", "10000000TiB", "1e3MiB", "+1", "0x10", "1_000", "1.2.3MiB", "InfMiB", "99999999.5TiB", "NaNKiB"} {
		if got, err := units.ParseSize(s); err == nil {
			t.Errorf("%q is read as %d", s, got)
		}
	}
	for size, want := range map[Size]string{0: "0B", 1: "1B", 1000: "1000B", kib: "1KiB", 10 * gib: "10GiB", 3 << 29: "1536MiB"} {
		if got := size.String(); got != want {
			t.Errorf("%d is printed as %s, want %s", size, got, want)
		}
		if back, err := units.ParseSize(want); err != nil || back != size {
			t.Errorf("%s is read as %d, %v", want, back, err)
		}
	}
}

// Equal and Hash see every key: whatever is changed makes another HMC, sink or configuration.
func TestEqualSeesEveryKey(t *testing.T) {
	matcher := func() match.Matcher {
		return match.Matcher{Repeat: new(bool), Planned: new(bool), Label: map[string]match.Patterns{"old": nil}}
	}
	pattern := func(source string) match.Pattern {
		p, err := match.NewPattern(source)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	base := func() *Config {
		h, s := HMC{Session: &Session{}, OSMessages: []OSMessages{{CPC: pattern("a")}}, Labels: map[string]string{"old": "x"}}, Sink{Webhook: &Webhook{Secrets: []Secret{NewSecret("old")}}, Log: &Log{}, Match: []match.Matcher{matcher()}, Drop: []match.Matcher{matcher()}}
		s.Alertmanager = &Alertmanager{URLs: []URL{NewURL("old")}, Labels: map[string]string{"old": "x"}}
		s.NATS, s.Kafka = &NATS{NATSLogon: NATSLogon{TLS: &TLS{}}}, &Kafka{TLS: &TLS{}, SASL: &SASL{}}
		s.Syslog, s.OTLP = &Syslog{}, &OTLP{}
		s.Splunk, s.Elasticsearch = &Splunk{}, &Elasticsearch{}
		return &Config{HMCs: []HMC{h}, Sinks: []Sink{s}, Storage: Storage{JetStream: &JetStream{NATSLogon: NATSLogon{TLS: &TLS{}}}}, Rules: []Rule{{Match: []match.Matcher{matcher()}, Labels: map[string]string{"old": "x"}}}}
	}
	var count int
	// change calls try with every value of the configuration changed, one at a time.
	var change func(v reflect.Value, path string, try func(path string))
	change = func(v reflect.Value, path string, try func(string)) {
		old := reflect.New(v.Type()).Elem()
		old.Set(v)
		set := func(to any) {
			count++
			v.Set(reflect.ValueOf(to).Convert(v.Type()))
			try(path)
			v.Set(old)
		}
		switch v.Interface().(type) {
		case Secret:
			set(NewSecret("new"))
			return
		case URL:
			set(NewURL("new"))
			return
		case match.Pattern:
			set(pattern("new"))
			return
		case match.Patterns:
			set(match.Patterns{pattern("new")})
			return
		case match.Search:
			set(match.Search{regexp.MustCompile("new")})
			return
		case map[string]match.Patterns:
			set(map[string]match.Patterns{"new": nil})
			set(map[string]match.Patterns{"old": {pattern("new")}})
			return
		case SeverityTable:
			set(SeverityTable{"new": "info"})
			set(SeverityTable{"new": "warning"})
			return
		}
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				if keyOf(v.Type().Field(i)) != "" {
					change(v.Field(i), join(path, keyOf(v.Type().Field(i))), try)
				}
			}
		case reflect.Pointer:
			change(v.Elem(), path, try)
			v.SetZero()
			try(path)
			v.Set(old)
		case reflect.Slice:
			if v.Type().Elem().Kind() == reflect.String {
				set([]string{"new"})
				return
			}
			change(v.Index(0), path+"[0]", try)
			v.Set(reflect.Append(v, v.Index(0)))
			try(path)
			v.Set(old)
		case reflect.Map:
			set(map[string]string{"new": "x"})
			set(map[string]string{"old": "new"})
		case reflect.String:
			set("new")
		case reflect.Bool:
			set(!v.Bool())
		case reflect.Int, reflect.Int64:
			set(v.Int() + 1)
		case reflect.Float64:
			set(v.Float() + 1)
		default:
			t.Fatalf("%s has the unexpected type %s", path, v.Type())
		}
	}
	a, b := base(), base()
	if !a.HMCs[0].Equal(&b.HMCs[0]) || !a.Sinks[0].Equal(&b.Sinks[0]) || !equal(a, b) || a.Hash() != b.Hash() {
		t.Fatal("equal ones differ")
	}
	hash := a.Hash()
	if hash == 0 || hash >= 1<<48 || uint64(float64(hash)) != hash {
		t.Errorf("hash %d does not fit", hash)
	}
	change(reflect.ValueOf(b).Elem(), "", func(path string) {
		if equal(a, b) {
			t.Errorf("a change of %s goes unnoticed", path)
		}
		if strings.HasPrefix(path, "hmcs[0]") && a.HMCs[0].Equal(&b.HMCs[0]) {
			t.Errorf("a change of %s leaves the HMC equal", path)
		}
		if strings.HasPrefix(path, "sinks[0]") && a.Sinks[0].Equal(&b.Sinks[0]) {
			t.Errorf("a change of %s leaves the sink equal", path)
		}
	})
	if !equal(a, b) {
		t.Error("the change was not taken back")
	}
	if count < 80 {
		t.Errorf("only %d values were changed", count)
	}
	for name, mutate := range map[string]func(c *Config){
		"a secret": func(c *Config) { c.HMCs[0].Password = NewSecret("new") },
		"a number": func(c *Config) { c.HMCs[0].RESTPort++ },
	} {
		c := base()
		mutate(c)
		if c.Hash() == hash {
			t.Errorf("%s does not change the hash", name)
		}
	}
	// Two secrets that swap places, and a text that moves from one key to the next, are a
	// change.
	c, d := base(), base()
	c.HMCs[0].Session.ID, c.HMCs[0].Session.Credential = NewSecret("ab"), NewSecret("c")
	d.HMCs[0].Session.ID, d.HMCs[0].Session.Credential = NewSecret("a"), NewSecret("bc")
	if c.HMCs[0].Equal(&d.HMCs[0]) {
		t.Error("secrets run into each other")
	}
}

// What a webhook's secret stands for: the reference libraries' reading first, plain text where it
// is none.
func TestSigningKeys(t *testing.T) {
	for secret, want := range map[string]string{
		"whsec_a2V5IG9mIGEgY29uc3VtZXIsIHF1aXRlIGxvbmc=": "key of a consumer, quite long",
		"a2V5IG9mIGEgY29uc3VtZXIsIHF1aXRlIGxvbmc=":       "key of a consumer, quite long",
		"plain text: of a consumer!":                     "plain text: of a consumer!",
	} {
		w := Webhook{Secret: NewSecret(secret)}
		if keys := w.SigningKeys(); len(keys) != 1 || string(keys[0]) != want {
			t.Errorf("%q gave %q", secret, keys)
		}
	}
	for _, secret := range []string{"v1,whsec_a2V5", "v1,a2V5IG9mIGEgY29uc3VtZXIsIHF1aXRlIGxvbmc=", "whsec_", "whsec_!"} {
		if keys := (&Webhook{Secret: NewSecret(secret)}).SigningKeys(); keys != nil {
			t.Errorf("%q gave %q", secret, keys)
		}
	}
	if keys := (&Webhook{}).SigningKeys(); keys != nil {
		t.Errorf("no secret gave %q", keys)
	}
}

func TestLogStart(t *testing.T) {
	now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"now": now, "all": {}, "24h": now.Add(-24 * time.Hour), "7d": now.Add(-7 * 24 * time.Hour),
		"2026-11-01T00:00:00Z": time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), `"2026-11-01T01:00:00+01:00"`: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
	} {
		c, err := loadText(t, "hmcs: [{name: a, hosts: [h], userid: u, password: p, topics: [audit], log_start: "+text+"}]\nsinks: [{name: s, log: {output: stderr}}]")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := c.HMCs[0].LogStart.Since(now); !got.Equal(want) {
			t.Errorf("%s: since %s, want %s", text, got, want)
		}
	}
}

func TestStart(t *testing.T) {
	for text, want := range map[string]Start{"": StartLatest, "start: latest": StartLatest, "start: earliest": StartEarliest, "start: 24h": "24h", "start: 7d": "7d"} {
		c, err := loadText(t, "hmcs: [{name: a, hosts: [h], userid: u, password: p}]\nsinks: [{name: s, log: {output: stderr}, "+text+"}]")
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := c.Sinks[0].Start; got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
}
