//go:build !linux

package queue

import "os"

// adviseWillNeed does nothing where the call does not exist.
func adviseWillNeed(*os.File) {}
