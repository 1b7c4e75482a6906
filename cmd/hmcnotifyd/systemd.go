package main

import (
	"cmp"
	"fmt"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// maxStatusLine is how much of a reason the line for systemd has room for.
const maxStatusLine = 500

// notifier sends systemd the state of the daemon. Without systemd it does nothing.
type notifier struct{ log *zap.Logger }

func (n notifier) send(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		n.log.Warn("systemd could not be notified", zap.Error(err))
	}
}

func (n notifier) ready()    { n.send(sd.SdNotifyReady) }
func (n notifier) stopping() { n.send(sd.SdNotifyStopping) }
func (n notifier) alive()    { n.send(sd.SdNotifyWatchdog) }

// reloading sends when the reload began, as Type=notify-reload asks for.
func (n notifier) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		n.log.Warn("the monotonic clock cannot be read", zap.Error(err))
		return
	}
	n.send(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sd.SdNotifyReloading, now.Nano()/1000))
}

// statusEvery is how often systemd is sent the number of connected HMCs, if that has changed.
const statusEvery = 2 * time.Second

// status sends systemd the line that systemctl status shows, unless it is the last one sent, and
// returns it.
func (n notifier) status(s status.Status, last string) string {
	text := statusLine(s)
	if text != last {
		n.send("STATUS=" + text)
	}
	return text
}

// ending replaces that line while the daemon ends.
func (n notifier) ending() {
	n.send("STATUS=ending: logging off from the HMCs, delivering what is stored")
}

func statusLine(s status.Status) string {
	connected := 0
	for _, h := range s.HMCs {
		if h.Connected {
			connected++
		}
	}
	text := fmt.Sprintf("%d of %d HMCs connected", connected, len(s.HMCs))
	if s.Role == status.RoleStandby {
		text = "standing by; " + cmp.Or(s.Leader, "nobody yet") + " leads"
	}
	if !s.Ready && len(s.Reasons) > 0 {
		text += "; "
		r := s.Reasons[0]
		if who := r.HMC + r.Sink; who != "" {
			text += who + ": "
		}
		text += r.Reason
		if more := len(s.Reasons) - 1; more > 0 {
			text += fmt.Sprintf(" (and %d more)", more)
		}
	}
	return oneLine(text, maxStatusLine)
}

// watchdog returns a channel that ticks as often as systemd wants to hear of the daemon; nil where
// it does not.
func (n notifier) watchdog() (<-chan time.Time, func()) {
	interval, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("the systemd watchdog's settings cannot be read", zap.Error(err))
	}
	if interval <= 0 {
		return nil, func() {}
	}
	t := time.NewTicker(interval / 2)
	return t.C, t.Stop
}
