package boltfile

import (
	"os"

	"golang.org/x/sys/unix"
)

// adviseWillNeed asks the kernel to read the file ahead. It is only advice: an error costs speed.
func adviseWillNeed(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_WILLNEED)
}
