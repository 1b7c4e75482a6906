// Package watch looks after one HMC: session, link, subscriptions and OS message channels, all of
// it again after any loss. It fetches what was missed. DESIGN.md says how.
package watch
