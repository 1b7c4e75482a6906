//go:build !linux

package datadir

import "os"

// Available is not known: there is no call for it.
func Available(string) int64 { return -1 }

func syncData(f *os.File) error { return f.Sync() }
