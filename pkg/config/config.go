// Package config is the configuration file of hmcnotifyd: its types, defaults, strict reading and validation.
//
// [Load] reports every problem of a file at once, each with line and YAML path. What it returns is complete:
// defaults are filled in, relative paths are made absolute, regular expressions are compiled, and secrets and CA
// certificates are read from their files, so that nothing which uses a Config has to read a file or can fail on one. The
// exception are the files of an [HTTPConfig], which are read again while they are in use.
package config

import (
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// Config is a whole configuration file.
type Config struct {
	HMCs              []HMC         `yaml:"hmcs"`
	Sinks             []Sink        `yaml:"sinks"`
	Storage           Storage       `yaml:"storage"`
	Dedup             Dedup         `yaml:"dedup"`
	Severity          Severity      `yaml:"severity"`
	Flood             Flood         `yaml:"flood"`
	Estate            Estate        `yaml:"estate"`
	HeartbeatInterval time.Duration `yaml:"heartbeat_interval"` // one bridge-heartbeat event per HMC and interval; 0: none

	File     string `yaml:"-"` // the path given to Load
	Warnings Errors `yaml:"-"` // what is allowed but probably not meant, sorted by line
}

// HMC is one Hardware Management Console to watch.
type HMC struct {
	Name      string   `yaml:"name"`  // the label hmc; unique
	Hosts     []string `yaml:"hosts"` // DNS names, IPv4 or bare IPv6 addresses; the first that answers is used
	RESTPort  int      `yaml:"rest_port"`
	StompPort int      `yaml:"stomp_port"`

	Userid       string `yaml:"userid"`
	Password     Secret `yaml:"password"`      // also when it came from PasswordFile
	PasswordFile string `yaml:"password_file"` // absolute

	TLS TLS `yaml:"tls"` // for the REST connection and the link

	Topics     []string     `yaml:"topics"` // of the Topic constants; empty with TopicNames
	OSMessages []OSMessages `yaml:"os_messages"`

	// TopicNames are topics known beforehand, without "/topic/". With them there is no REST logon: the link is
	// made with Userid and Password, or with Session.
	TopicNames []string `yaml:"topic_names"`

	// Session is a Web Services API session made elsewhere; nil: the daemon logs on with Userid and Password.
	Session *Session `yaml:"session"`

	HardwareMessages      bool   `yaml:"hardware_messages"` // of the console and the CPCs; not with TopicNames
	Group                 string `yaml:"group"`             // HMCs of one group see the same machines; default: Name
	RESTRequestsPerMinute int    `yaml:"rest_requests_per_minute"`

	Stomp receiver.StompRetryTimeoutConfig `yaml:"stomp"`
}

// Session names a Web Services API session that something else has logged on, with MFA for example.
type Session struct {
	ID             Secret `yaml:"id"` // also when it came from IDFile
	IDFile         string `yaml:"id_file"`
	Credential     Secret `yaml:"credential"` // also when it came from CredentialFile
	CredentialFile string `yaml:"credential_file"`
}

// OSMessages selects the partitions whose operating system messages are followed. Both patterns must match.
type OSMessages struct {
	CPC                    Pattern `yaml:"cpc"`
	Partition              Pattern `yaml:"partition"`
	IncludeRefreshMessages bool    `yaml:"include_refresh_messages"`
}

// The values of HMC.Topics.
const (
	TopicObject   = event.TopicObject
	TopicJob      = event.TopicJob
	TopicAudit    = event.TopicAudit
	TopicSecurity = event.TopicSecurity
)

// Sink is one destination of events. Exactly one of the kinds (Webhook, Log, ...) is set.
type Sink struct {
	Name string `yaml:"name"` // the label sink; unique

	Webhook      *Webhook      `yaml:"webhook"`
	Log          *Log          `yaml:"log"`
	Alertmanager *Alertmanager `yaml:"alertmanager"`
	NATS         *NATS         `yaml:"nats"`
	Kafka        *Kafka        `yaml:"kafka"`
	Syslog       *Syslog       `yaml:"syslog"`

	Match []Matcher `yaml:"match"` // any of them; none: every event
	Drop  []Matcher `yaml:"drop"`  // any of them; wins over Match

	Timeout     time.Duration `yaml:"timeout"`     // of one attempt to send
	Concurrency int           `yaml:"concurrency"` // requests in flight; the order per resource is kept
	Batch       Batch         `yaml:"batch"`
	Retry       Retry         `yaml:"retry"`
	Queue       Queue         `yaml:"queue"`
	Collapse    bool          `yaml:"collapse"` // floods of equal status changes become one event per CPC
}

// Kind names the kind of the sink as its key in the file does: "webhook", "log".
func (s *Sink) Kind() string {
	switch {
	case s.Webhook != nil:
		return "webhook"
	case s.Log != nil:
		return "log"
	case s.Alertmanager != nil:
		return "alertmanager"
	case s.NATS != nil:
		return "nats"
	case s.Kafka != nil:
		return "kafka"
	case s.Syslog != nil:
		return "syslog"
	}
	return ""
}

// Webhook posts events to an HTTP server.
type Webhook struct {
	URL     URL    `yaml:"url"` // also when it came from URLFile
	URLFile string `yaml:"url_file"`
	Format  string `yaml:"format"` // of the Format constants

	// Of FormatTemplate; see package render.
	Template     string `yaml:"template"`      // also when it came from TemplateFile
	TemplateFile string `yaml:"template_file"` // absolute
	ContentType  string `yaml:"content_type"`  // of what the template makes; empty: DefaultContentType

	Secret     Secret `yaml:"secret"` // also when it came from SecretFile; see SigningKeys
	SecretFile string `yaml:"secret_file"`

	// Further secrets, so that one can take the place of another. Each signs every request.
	Secrets     []Secret `yaml:"secrets"` // also those that came from SecretFiles
	SecretFiles []string `yaml:"secret_files"`

	Compression string     `yaml:"compression"` // of the Compression constants
	HTTPConfig  HTTPConfig `yaml:"http_config"`
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

// DefaultContentType is the content type of what a template makes, unless Webhook.ContentType says otherwise.
const DefaultContentType = "application/json"

// Log writes events as lines.
type Log struct {
	Output   string `yaml:"output"`    // OutputStderr, OutputStdout or the absolute path of a file
	Format   string `yaml:"format"`    // FormatJSON or FormatText
	MaxSize  Size   `yaml:"max_size"`  // of a file before it is rotated; 0: never
	MaxFiles int    `yaml:"max_files"` // rotated files that are kept
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
	MaxEvents int           `yaml:"max_events"` // 1: no batches
	MaxWait   time.Duration `yaml:"max_wait"`   // for a batch to fill; 0: send what is there
}

// Retry says when a failed attempt is repeated.
type Retry struct {
	Initial time.Duration `yaml:"initial"` // the first wait
	Max     time.Duration `yaml:"max"`     // the longest wait
	MaxAge  time.Duration `yaml:"max_age"` // how long an event is tried before it becomes a dead letter; 0: without end
}

// Queue limits what may wait for a sink. Beyond either limit the oldest events go, counted.
type Queue struct {
	MaxBytes Size          `yaml:"max_bytes"` // 0: no limit
	MaxAge   time.Duration `yaml:"max_age"`   // 0: no limit
}

// Storage says how events are stored. Where is said by --storage.path.
type Storage struct {
	CommitInterval time.Duration `yaml:"commit_interval"` // how long to gather events into one commit; 0: no waiting
	MaxBytes       Size          `yaml:"max_bytes"`       // 0: no limit
}

// Dedup bounds the memory of event ids already delivered.
type Dedup struct {
	Window time.Duration `yaml:"window"`
	MaxIDs int           `yaml:"max_ids"`
}

// Severity rates events otherwise than the built-in table does.
type Severity struct {
	Status  SeverityTable `yaml:"status"`   // by the new status of a resource of any class
	EventID SeverityTable `yaml:"event_id"` // by the id of a log entry, such as 1941
}

// SeverityTable gives severities (event.SeverityInfo, ...) by what they are of.
type SeverityTable map[string]string

// Flood says what a flood of equal status changes is: at least Min of them within Window.
type Flood struct {
	Window time.Duration `yaml:"window"`
	Min    int           `yaml:"min"`
}

// Estate bounds what is exported of CPCs and partitions.
type Estate struct {
	MaxResources int `yaml:"max_resources"` // with series in /metrics, of all HMCs together
}

// Matcher selects events: every key that is set must match.
type Matcher struct {
	Type     Patterns `yaml:"type"`
	HMC      Patterns `yaml:"hmc"`
	Class    Patterns `yaml:"class"`
	Name     Patterns `yaml:"name"`
	CPC      Patterns `yaml:"cpc"`
	Origin   Patterns `yaml:"origin"`
	Severity Patterns `yaml:"severity"`
	Status   Patterns `yaml:"status"`   // the new status
	Property Patterns `yaml:"property"` // the name of any changed property
	User     Patterns `yaml:"user"`     // the userid of a log entry
	EventID  Patterns `yaml:"event_id"` // the id of a log entry, such as 1941
	Text     Search   `yaml:"text"`     // found anywhere in the text of a message
}

// TLS says how the certificate of a server is verified. It is comparable; the contents of CAFile take part.
type TLS struct {
	CAFile             string `yaml:"ca_file"`     // PEM, absolute; empty: the system's certificate authorities
	ServerName         string `yaml:"server_name"` // the name the certificate must have; empty: the host connected to
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify"`

	ca  string // what CAFile held when it was loaded
	key string // where the file has these settings; empty: "tls", that of an HMC
}
