// Package diskstore is a store for the queue in a directory: a file of pkg/appendlog for each
// segment, and one for the positions of the cursors. It takes over what version 0.1 has stored.
// How that is done and why is in DESIGN.md.
package diskstore
