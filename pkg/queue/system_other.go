//go:build !linux

package queue

import "os"

// adviseWillNeed does nothing where the call does not exist.
func adviseWillNeed(*os.File) {}

// availableBytes is not known here.
func availableBytes(string) int64 { return -1 }
