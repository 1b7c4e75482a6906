// Package cluster keeps the log of the daemon on a NATS JetStream cluster: a store for a queue,
// whose groups are messages of one stream. Each names the last one that its writer knows of, so
// that of two who write one is refused; DESIGN.md says why that is enough.
package cluster

import "errors"

// ErrDeposed says that another daemon writes to the log now. Whoever gets it closes the queue.
var ErrDeposed = errors.New("another daemon writes to the log")
