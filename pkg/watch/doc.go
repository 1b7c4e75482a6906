// Package watch keeps one HMC in sight: session, link, subscriptions and OS message channels, all of it again after any
// loss. It fetches what was missed, and checks once, for a person, what it does all the time.
package watch
