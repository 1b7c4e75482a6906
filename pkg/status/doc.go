// Package status is what a page or a person may ask of the daemon, as plain data, with advice on what to do about troubles.
package status
