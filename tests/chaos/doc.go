// Package chaos runs the daemon under load while everything around it fails at
// random: it is killed, networks are cut, HMCs and brokers restart, sessions
// expire, the disk is full, the webhook consumer dies. At the end an oracle
// compares what was published with what arrived. A seed gives the faults of a
// run; it is printed and repeats them. `make chaos` runs it.
package chaos
