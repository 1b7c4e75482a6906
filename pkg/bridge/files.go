package bridge

import (
	"slices"
	"time"

	"go.uber.org/zap"
)

// filesEvery is how often the files are looked at that sinks name: a credential that was renewed is
// used within seconds.
const filesEvery = 3 * time.Second

// rereadSinks starts a sink anew when a file with a secret, a key or a certificate has changed that
// it names. wrong has for each sink what is in the log.
func (b *Bridge) rereadSinks(wrong map[string]string) {
	if !b.reloading.TryLock() {
		return // what is being loaded has the files as they are
	}
	defer b.reloading.Unlock()
	cfg := *b.now().cfg
	cfg.Sinks = slices.Clone(cfg.Sinks)
	changed := false
	for i := range cfg.Sinks {
		s := &cfg.Sinks[i]
		fresh, err := s.Reread()
		if err != nil {
			if text := err.Error(); wrong[s.Name] != text {
				wrong[s.Name] = text
				b.log.Warn("a file that a sink names cannot be used; the sink goes on with what it has",
					zap.String("sink", s.Name), zap.Error(err))
			}
			continue
		}
		delete(wrong, s.Name)
		if !fresh.Equal(s) {
			*s, changed = *fresh, true
			b.log.Info("a file that a sink names has changed: the sink starts anew with it", zap.String("sink", s.Name))
		}
	}
	if !changed {
		return
	}
	if err := b.reload(&cfg); err != nil {
		b.log.Error("sinks cannot be started anew with what their files hold now", zap.Error(err))
	}
}
