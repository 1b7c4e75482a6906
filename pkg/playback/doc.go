// Package playback plays a capture back (see pkg/capture): an HMC over real REST and STOMP that
// says again what the captured one has said, in the same order, so that whoever connects sees what
// the captured daemon saw.
package playback
