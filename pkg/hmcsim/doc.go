// Package hmcsim is a Hardware Management Console of IBM Z to test and try things with: the REST
// interface of its Web Services API, the STOMP broker its notifications come from, both over TLS
// with a CA of their own, and behind them an estate of CPCs, DPM partitions and classic LPARs that
// lives.
//
// Start gives a whole HMC. StartBroker gives the broker alone, for tests of a STOMP receiver and
// for benchmarks (Flood). Both can be made to misbehave: a script of faults for each STOMP
// connection (Fault) and for REST (RESTFault), sessions that expire, restarts with a downtime.
//
// What it does follows what is publicly known of real HMCs: captures in public issues, the code of
// clients that work with real HMCs (zhmcclient and the programs around it), IBM's documentation,
// and the behavior of Apache ActiveMQ 5.17, the broker inside an HMC. Where nobody outside IBM has
// published the answer, an option chooses between the likely ones, and its comment says so.
//
// Everything is in memory, listens where it is told to (a loopback address with a free port by
// default), and ends with Close. The same seed gives the same estate.
package hmcsim
