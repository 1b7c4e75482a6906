package deliver

import (
	"math/rand/v2"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

// retryBackoff is the wait between attempts to deliver: doubled each time up to a maximum, with full jitter, so that
// many senders that failed together do not come back together.
type retryBackoff struct {
	cfg      config.Retry
	failures int
}

// next returns how long to wait after one more failure.
func (b *retryBackoff) next() time.Duration {
	limit := b.cfg.Initial
	for range b.failures {
		if limit >= b.cfg.Max/2 {
			limit = b.cfg.Max
			break
		}
		limit *= 2
	}
	b.failures++
	limit = min(limit, b.cfg.Max)
	// Full jitter, but never less than a tenth: a consumer in trouble is not to be asked at once again.
	return limit/10 + rand.N(limit-limit/10+1)
}
