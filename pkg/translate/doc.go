// Package translate turns the notifications of an HMC into events: what they are about, in words,
// and how serious it is.
package translate
