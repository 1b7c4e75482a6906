package datadir

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// damageError says that a file's content is not what was written.
type damageError struct {
	path string
	err  error
}

func (e *damageError) Error() string { return e.path + " is damaged: " + e.err.Error() }
func (e *damageError) Unwrap() error { return e.err }

// Damaged returns the error for a file that is damaged.
func Damaged(path string, err error) error { return &damageError{path, err} }

// Damagef is Damaged with a text.
func Damagef(path, format string, args ...any) error {
	return Damaged(path, fmt.Errorf(format, args...))
}

// IsDamage tells damage of the file from an error of the system, which may pass.
func IsDamage(err error) bool {
	_, ok := errors.AsType[*damageError](err)
	return ok
}

// Classify tells which of the errors on opening and reading a file mean that what was in it is
// lost: all that are not the system's, and those of the system that will not pass.
func Classify(path string, err error) error {
	_, ofPath := errors.AsType[*os.PathError](err)
	_, ofSystem := errors.AsType[syscall.Errno](err)
	system := ofPath || ofSystem
	if IsDamage(err) || (system && !errors.Is(err, syscall.EIO) && !errors.Is(err, os.ErrNotExist)) {
		return err
	}
	return Damaged(path, err)
}

// IsNoSpace tells errors that pass by themselves from those that make a directory unusable.
func IsNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}
