// Package storage is what lies between a queue and that in which it keeps its data: the interface
// Store, what is handed over it, and the form that records, changes of the state and positions have
// when they are stored. Stores are pkg/diskstore, in a directory, and pkg/cluster, on NATS.
package storage
