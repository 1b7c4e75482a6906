package watch

import (
	"sync"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/assume"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logon"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// assumptions holds what the HMC does against what it is assumed to do. Nothing else depends on it.
// Notifications are looked at when they are recorded, and not when they come: the goroutine that
// reads the link has no time.
type assumptions struct {
	mu       sync.Mutex
	observer *assume.Observer
}

func newAssumptions(name string, m *record.Metrics, log *zap.Logger) *assumptions {
	a := &assumptions{observer: assume.NewObserver()}
	for _, q := range assume.Questions() {
		m.Assumptions.WithLabelValues(name, q.ID) // so that a rate has a beginning
	}
	a.observer.Sampled = true
	a.observer.OnOtherwise = func(q assume.Question, evidence string, times int) {
		m.Assumptions.WithLabelValues(name, q.ID).Inc()
		if times == 1 {
			log.Info("the HMC is not as it was assumed to be; please report it (docs/contributing-captures.md)",
				zap.String("assumption", q.ID), zap.String("question", q.Asks), zap.String("assumed", q.Assumed),
				zap.String("seen", evidence), zap.String("so", q.Otherwise))
		}
	}
	return a
}

// exchange looks at requests before next does, which may be nil.
func (a *assumptions) exchange(next func(hmc.Exchange)) func(hmc.Exchange) {
	return func(x hmc.Exchange) {
		a.mu.Lock()
		logon.ObserveExchange(a.observer, x)
		a.mu.Unlock()
		if next != nil {
			next(x)
		}
	}
}

// traffic looks at all but notifications before next does, which may be nil.
func (a *assumptions) traffic(next func(receiver.Traffic)) func(receiver.Traffic) {
	return func(t receiver.Traffic) {
		if t.Command != "MESSAGE" {
			a.mu.Lock()
			logon.ObserveTraffic(a.observer, t)
			a.mu.Unlock()
		}
		if next != nil {
			next(t)
		}
	}
}

// missed says that a notification was dropped for which there was no room.
func (a *assumptions) missed(topic string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.observer.Missed(topic)
}

func (a *assumptions) notified(n *translate.Notification) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.observer.Message(n.Topic, n.Headers.Get, n.Body)
}

// violations lists what is not as assumed. It is never nil.
func (a *assumptions) violations() []status.Violation {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := []status.Violation{}
	for _, answer := range a.observer.Otherwise() {
		all = append(all, status.Violation{
			Assumption: answer.ID, Question: answer.Asks, Assumed: answer.Assumed, Seen: answer.Evidence,
		})
	}
	return all
}
