// Package translate turns the notifications of an HMC into events: what they are about, in words,
// and how serious it is. Their numbers tell which are missing.
package translate
