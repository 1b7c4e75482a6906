// Package config is the configuration file of hmcnotifyd: its types, defaults, strict reading and
// validation.
//
// [Load] reports every problem of a file at once, each with line and YAML path. What it returns is
// complete: defaults are filled in, relative paths are made absolute, regular expressions are
// compiled, and secrets and CA certificates are read from their files, so that nothing which uses a
// Config has to read a file or can fail on one. The exception are the files of an [HTTPConfig],
// which are read again while they are in use, and those of an HMC and of a sink: see [HMC.Reread]
// and [Sink.Reread].
package config

import (
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// Config is a whole configuration file.
type Config struct {
	// required; the consoles to watch
	HMCs []HMC `yaml:"hmcs"`
	// required; where the events go
	Sinks []Sink `yaml:"sinks"`
	// rate events, in order: the first that fits and has a severity; what none rates is rated by
	// Severity
	Rules    []Rule   `yaml:"rules"`
	Storage  Storage  `yaml:"storage"`
	HA       HA       `yaml:"ha"`
	Dedup    Dedup    `yaml:"dedup"`
	Severity Severity `yaml:"severity"`
	Flood    Flood    `yaml:"flood"`
	Estate   Estate   `yaml:"estate"`
	// one event of the type bridge-heartbeat per HMC and interval; 0: no such events
	HeartbeatInterval time.Duration `yaml:"heartbeat_interval"`

	// the path given to Load
	File string `yaml:"-"`
	// what is allowed but probably not meant, sorted by line
	Warnings Errors `yaml:"-"`
}

// HMC is one Hardware Management Console to watch.
type HMC struct {
	// required; unique; the label hmc of metrics, and part of each event
	Name string `yaml:"name"`
	// required; DNS names, IPv4 or bare IPv6 addresses of this HMC; of several, the first that
	// answers is used
	Hosts []string `yaml:"hosts"`
	// of the Web Services API
	RESTPort int `yaml:"rest_port"`
	// of the notifications: STOMP over TLS
	StompPort int `yaml:"stomp_port"`

	// required, unless there is a Session; best one for the daemon alone
	Userid string `yaml:"userid"`
	// also when it came from PasswordFile
	Password Secret `yaml:"password"`
	// absolute; a file with nothing but the password
	PasswordFile string `yaml:"password_file"`

	// how the HMC's certificate is verified, for both connections
	TLS TLS `yaml:"tls"`

	// Topics are what to hear of: object (status, property and inventory changes), job
	// (completed jobs), audit, security (entries of these logs); default: object and job,
	// nothing with TopicNames.
	Topics []string `yaml:"topics"`

	// the partitions whose operating system messages are followed: any of the entries; none: no
	// partition
	OSMessages []OSMessages `yaml:"os_messages"`

	// TopicNames are topics known beforehand, such as ensadmin.145. With them there is no logon
	// to the Web Services API: the link is made with Userid and Password, or with Session.
	TopicNames []string `yaml:"topic_names"`

	// Session is a Web Services API session made elsewhere, instead of Userid and Password.
	Session *Session `yaml:"session"`

	// whether hardware messages of the console and the CPCs are told; not with TopicNames
	HardwareMessages bool `yaml:"hardware_messages"`
	// HMCs of one group see the same machines, and tell each change once; default: Name
	Group string `yaml:"group"`
	// what this HMC is asked at most
	RESTRequestsPerMinute int `yaml:"rest_requests_per_minute"`
	// of one answer of the Web Services API; a long one (OS messages, logs) may take ten times
	// as long, as long as it goes on
	RESTTimeout time.Duration `yaml:"rest_timeout"`
	// from when on the entries of the audit and security log are told, at the very first start:
	// now, all, a duration before it such as 24h, or a time such as 2026-11-01T00:00:00Z
	LogStart LogStart `yaml:"log_start"`
	// of each event of this HMC, besides those by rules, which win; and of hmcnotifyd_hmc_info
	Labels map[string]string `yaml:"labels"`

	Stomp receiver.StompRetryTimeoutConfig `yaml:"stomp"`
}

// Session names a Web Services API session that something else has logged on, with MFA for example.
type Session struct {
	// also when it came from IDFile
	ID Secret `yaml:"id"`
	// a file with the session's id
	IDFile string `yaml:"id_file"`
	// also when it came from CredentialFile
	Credential Secret `yaml:"credential"`
	// a file with the session credential, which the broker asks for
	CredentialFile string `yaml:"credential_file"`
}

// OSMessages selects the partitions whose operating system messages are followed. Both patterns
// must match.
type OSMessages struct {
	// the name of the CPC
	CPC match.Pattern `yaml:"cpc"`
	// the name of the DPM partition or LPAR
	Partition match.Pattern `yaml:"partition"`
	// whether the messages come too that the HMC still holds from before
	IncludeRefreshMessages bool `yaml:"include_refresh_messages"`
}

// The values of HMC.Topics.
const (
	TopicObject   = event.TopicObject
	TopicJob      = event.TopicJob
	TopicAudit    = event.TopicAudit
	TopicSecurity = event.TopicSecurity
)

// Sink is one destination of events. It has exactly one kind: one of Webhook, Log and so on is set.
type Sink struct {
	// required; unique; the label sink of metrics
	Name string `yaml:"name"`

	Webhook      *Webhook      `yaml:"webhook"`
	Log          *Log          `yaml:"log"`
	Alertmanager *Alertmanager `yaml:"alertmanager"`
	NATS         *NATS         `yaml:"nats"`
	Kafka        *Kafka        `yaml:"kafka"`
	Syslog       *Syslog       `yaml:"syslog"`
	OTLP         *OTLP         `yaml:"otlp"`

	Splunk        *Splunk        `yaml:"splunk"`
	Elasticsearch *Elasticsearch `yaml:"elasticsearch"`

	// the events that the sink gets: those that any of the entries fits; none: every event
	Match []match.Matcher `yaml:"match"`
	// the events that it does not get: those that any of the entries fits; wins over Match;
	// none: no event
	Drop []match.Matcher `yaml:"drop"`

	// of one attempt to send
	Timeout time.Duration `yaml:"timeout"`
	// requests in flight; the order per resource is kept
	Concurrency int   `yaml:"concurrency"`
	Batch       Batch `yaml:"batch"`
	Retry       Retry `yaml:"retry"`
	Queue       Queue `yaml:"queue"`
	// where a new sink begins: latest (what comes), earliest (what is stored), or as 24h ago
	Start Start `yaml:"start"`
	// whether a flood of equal status changes becomes one event per CPC
	Collapse bool `yaml:"collapse"`
}

// Webhook posts events to an HTTP server.
type Webhook struct {
	// required, here or in URLFile; http:// or https://; also when it came from URLFile
	URL URL `yaml:"url"`
	// a file with nothing but the address, where that holds a token
	URLFile string `yaml:"url_file"`
	// what is sent; of the Format constants
	Format string `yaml:"format"`

	// with the format template: the template; also when it came from TemplateFile
	Template string `yaml:"template"`
	// absolute; instead of Template
	TemplateFile string `yaml:"template_file"`
	// with the format template: of what the template makes
	ContentType string `yaml:"content_type"`

	// signs each request as standardwebhooks.com says: whsec_ and base64; also when it came
	// from SecretFile
	Secret Secret `yaml:"secret"`
	// a file with nothing but the secret
	SecretFile string `yaml:"secret_file"`

	// further ones that sign as well, while one takes the place of another; also those that
	// came from SecretFiles
	Secrets []Secret `yaml:"secrets"`
	// a file for each of them
	SecretFiles []string `yaml:"secret_files"`

	// of the Compression constants
	Compression string `yaml:"compression"`
	// how requests are made, and what authenticates them
	HTTPConfig HTTPConfig `yaml:"http_config"`
}

// The values of Webhook.Format.
const (
	FormatJSON        = "json"
	FormatCloudEvents = "cloudevents"
	FormatTemplate    = "template"
)

// The values of Webhook.Compression.
const (
	CompressionNone = "none"
	CompressionGzip = "gzip"
)

// DefaultContentType is the content type of what a template makes, unless Webhook.ContentType says
// otherwise.
const DefaultContentType = "application/json"

// Log writes events as lines.
type Log struct {
	// stderr, stdout or the path of a file, absolute
	Output string `yaml:"output"`
	// json: one JSON object per line; text: a line for people
	Format string `yaml:"format"`
	// of a file before it is rotated; 0: never
	MaxSize Size `yaml:"max_size"`
	// rotated files that are kept
	MaxFiles int `yaml:"max_files"`
}

// FormatText is the value of Log.Format that is for people.
const FormatText = "text"

// The values of Log.Output that are no file.
const (
	OutputStderr = "stderr"
	OutputStdout = "stdout"
)

// Batch says how many events travel together.
type Batch struct {
	// 1: no batches; of otlp, splunk and elasticsearch 100 by default
	MaxEvents int `yaml:"max_events"`
	// for a batch to fill; 0: send what is there; of otlp, splunk and elasticsearch 1s by default
	MaxWait time.Duration `yaml:"max_wait"`
}

// Retry says when a failed attempt is repeated.
type Retry struct {
	// the first wait
	Initial time.Duration `yaml:"initial"`
	// the longest wait
	Max time.Duration `yaml:"max"`
	// how long after its receipt an event that was not accepted becomes a dead letter, tried or
	// not; 0: never
	MaxAge time.Duration `yaml:"max_age"`
}

// Queue limits what may wait for a sink. Beyond either limit the oldest events go, counted.
type Queue struct {
	// 0: no limit
	MaxBytes Size `yaml:"max_bytes"`
	// 0: no limit
	MaxAge time.Duration `yaml:"max_age"`
}

// Storage says how events are stored. Where is said by --storage.path.
type Storage struct {
	// how long to gather events into one commit; 0: no waiting
	CommitInterval time.Duration `yaml:"commit_interval"`
	// 0: no limit
	MaxBytes Size `yaml:"max_bytes"`
	// how long delivered events are kept at least, but within MaxBytes; 0: not at all
	Retain time.Duration `yaml:"retain"`
	// of all dead letters together; beyond it the oldest go, of the sink that has the most;
	// 0: no limit
	DeadLettersMaxBytes Size `yaml:"dead_letters_max_bytes"`
	// nil: they are kept in the directory
	JetStream *JetStream `yaml:"jetstream"`
}

// Dedup bounds the memory of event ids already delivered.
type Dedup struct {
	// how long an id is remembered
	Window time.Duration `yaml:"window"`
	// how many are remembered, of all HMCs together
	MaxIDs int `yaml:"max_ids"`
}

// Severity rates events otherwise than the built-in table does.
type Severity struct {
	// honor: a status that the HMC calls acceptable for the resource is info; ignore: what the HMC
	// thinks of a status does not count
	AcceptableStatus string `yaml:"acceptable_status"`
	// by the new status of a resource: STATUS, or CLASS/STATUS, which wins
	Status SeverityTable `yaml:"status"`
	// by the id of a log entry, such as 1941
	EventID SeverityTable `yaml:"event_id"`
}

// The values of Severity.AcceptableStatus.
const (
	AcceptableHonor  = "honor"
	AcceptableIgnore = "ignore"
)

// SeverityTable gives severities (event.SeverityInfo, ...) by what they are of.
type SeverityTable map[string]string

// Flood says what a flood of equal status changes is: at least Min of them within Window.
type Flood struct {
	// the longest pause between two of them
	Window time.Duration `yaml:"window"`
	// fewer are sent one by one
	Min int `yaml:"min"`
}

// Estate bounds what is exported of CPCs and partitions.
type Estate struct {
	// with series in /metrics, of all HMCs together
	MaxResources int `yaml:"max_resources"`
}

// Rule rates the events that it fits, and says more about them.
type Rule struct {
	// the events that it fits: those that any of the entries fits; required, unless there is
	// Include
	Match []match.Matcher `yaml:"match"`
	// info, warning or critical; none: the rule only adds labels and a runbook
	Severity string `yaml:"severity"`
	// added to the labels of the event; they win over those of the HMC
	Labels map[string]string `yaml:"labels"`
	// the address of a page that says what to do
	Runbook string `yaml:"runbook"`
	// instead of the other keys: the name of a ready set (zos, linux, hmc), or a file with a list
	// of rules, which stand in its place
	Include string `yaml:"include"`
}

// TLS says how the certificate of a server is verified.
//
// It is comparable; the contents of CAFile take part.
type TLS struct {
	// PEM, absolute; empty: the system's certificate authorities
	CAFile string `yaml:"ca_file"`
	// the name the certificate must have; empty: the host connected to
	ServerName string `yaml:"server_name"`
	// true: no verification; whoever is on the way can read what is sent, passwords too
	InsecureSkipVerify bool `yaml:"insecure_skip_verify"`

	// what CAFile held when it was loaded
	ca string
	// where the file has these settings; empty: "tls", that of an HMC
	where string
}
