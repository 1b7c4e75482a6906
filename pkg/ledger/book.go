package ledger

import "github.com/hmcnotifyd/hmcnotifyd/pkg/queue"

// Stored ranges over the keys that begin with prefix, and their values, as they are stored: never
// what is pending or was refused. It is the StateRange of a queue.
type Stored func(prefix string, fn func(key string, value []byte) bool)

// Book is a part of what is known. What it knows changes together with the events of a transaction
// only: its owner puts Changes into each batch, in order, and calls Load when one of them could not
// be stored and none is on its way any more.
type Book interface {
	// Load replaces what is known by what is stored. It returns how many values cannot be read;
	// they count as not stored.
	Load(stored Stored) (damaged int)
	// Changes appends what has to be stored since the last call; a nil value deletes its key.
	Changes(dst []queue.KeyValue) []queue.KeyValue
}
