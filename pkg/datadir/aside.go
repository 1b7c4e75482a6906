package datadir

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
)

// DamagedSuffix is what SetAside adds to a name.
const DamagedSuffix = ".damaged"

// SetAside renames a damaged file, for whoever wants to look at it, and returns its new name, "" if
// that failed. Numbered names keep an earlier one.
func SetAside(path string) (target string, err error) {
	target = path + DamagedSuffix
	for i := 2; ; i++ {
		if _, err := os.Lstat(target); errors.Is(err, os.ErrNotExist) {
			break
		}
		target = path + DamagedSuffix + "-" + strconv.Itoa(i)
	}
	if err := os.Rename(path, target); err != nil {
		return "", err
	}
	return target, Sync(filepath.Dir(path))
}
