// Package translate turns the notifications of an HMC into events: what they are about, in words,
// how serious it is, and how many are missing by their numbers.
package translate
