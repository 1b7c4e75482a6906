//go:build !linux

package boltfile

import "os"

func adviseWillNeed(*os.File) {}
