package sinks

import "errors"

// streamBatch is how many events one Send of a sink for NATS or Kafka takes unless more are configured. Each event is a
// message of its own: a batch is only what is on its way at once.
const streamBatch = 256

// batchError returns the error to judge a batch by. One that is refused for good comes first: the batch is then sent in parts,
// until that event is alone. Then one that says more than that time was over.
func batchError(errs []error) error {
	for _, err := range errs {
		if _, ok := errors.AsType[*PermanentError](err); ok {
			return err
		}
	}
	for _, err := range errs {
		if !isEnd(err) {
			return err
		}
	}
	if len(errs) > 0 {
		return errs[0]
	}
	return nil
}
