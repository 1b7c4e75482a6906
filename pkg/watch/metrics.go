package watch

import (
	"cmp"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// collector exports what supervisors publish. All series of an HMC are of one state, so that no
// scrape sees half a change; they go with the supervisor.
type collector struct {
	supervisors func() []*Supervisor

	connected, state, frame, notification, certificate, password *prometheus.Desc
}

// NewCollector returns a collector of the supervisors that it asks for at each scrape.
func NewCollector(supervisors func() []*Supervisor) prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("hmcnotifyd_"+name, help, append([]string{"hmc"}, labels...), nil)
	}
	return &collector{
		supervisors: supervisors,
		connected: desc("receiver_connected",
			"Whether the link to the HMC is up and every wanted topic is subscribed."),
		state: desc("receiver_state",
			"The state of the receiver: 1 for the current one, 0 for the others.", "state"),
		frame: desc("receiver_last_frame_timestamp_seconds",
			"When the last bytes (a frame or a heart-beat) came from the HMC, as Unix time; 0 before the first."),
		notification: desc("receiver_last_notification_timestamp_seconds",
			"When the last notification came from the HMC, as Unix time; 0 before the first."),
		certificate: desc("hmc_certificate_not_after_timestamp_seconds",
			"When the HMC's server certificate expires, as Unix time; 0 before it was seen."),
		password: desc("hmc_password_expires_timestamp_seconds",
			"When the password of the userid expires, as the last logon told it, as Unix time; absent where it is "+
				"not known or never does."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.connected, c.state, c.frame, c.notification, c.certificate, c.password} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It answers from memory.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.supervisors() {
		set := func(d *prometheus.Desc, value float64, labels ...string) {
			labels = append([]string{s.Cfg.Name}, labels...)
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
		}
		now := s.source.now()
		frame, notification := now.lastTimes()
		set(c.connected, oneIf(now.Connected))
		for _, name := range status.States {
			set(c.state, oneIf(name == now.State), name)
		}
		set(c.frame, status.UnixSeconds(frame))
		set(c.notification, status.UnixSeconds(notification))
		expires := cmp.Or(now.CertificateNotAfter, new(time.Time))
		set(c.certificate, status.UnixSeconds(*expires))
		if now.PasswordExpires != nil {
			set(c.password, status.UnixSeconds(*now.PasswordExpires))
		}
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
