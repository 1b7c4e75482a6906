// Package boltfile keeps damaged bbolt files from harming a program: it checks them before bbolt
// sees them, and turns a panic of bbolt into an error.
package boltfile

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"syscall"

	berrors "go.etcd.io/bbolt/errors"
)

// PageSize is fixed, so that a file does not depend on the machine's page size, which is 64 KiB on
// some: every transaction writes a handful of pages however small it is.
const PageSize = 4096

// damageError says that a file's content is not what was written.
type damageError struct {
	path string
	err  error
	// stuck says that bbolt has panicked and may hold its locks for good: the handle must not
	// even be closed, or this waits for ever. It is left to the end of the process, with its
	// descriptor and mapping.
	stuck bool
}

func (e *damageError) Error() string { return e.path + " is damaged: " + e.err.Error() }
func (e *damageError) Unwrap() error { return e.err }

// Damaged returns the error for a file that is damaged.
func Damaged(path string, err error) error { return &damageError{path: path, err: err} }

// Damagef is Damaged with a text.
func Damagef(path, format string, args ...any) error {
	return Damaged(path, fmt.Errorf(format, args...))
}

// Stuck is Damaged for a file whose handle must not be used again; see IsStuck.
func Stuck(path string, err error) error { return &damageError{path: path, err: err, stuck: true} }

// IsDamage tells damage of the file from an error of the system, which may pass.
func IsDamage(err error) bool {
	_, ok := errors.AsType[*damageError](err)
	return ok
}

// IsStuck tells that bbolt's handle must not be used again, nor closed.
func IsStuck(err error) bool {
	d, ok := errors.AsType[*damageError](err)
	return ok && d.stuck
}

// Guard runs fn, which uses bbolt on the file at path, and turns a panic, also that of a memory
// fault in a mapped file that has become shorter, into a damageError.
func Guard(path string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = Stuck(path, fmt.Errorf("panic: %v", p))
		}
	}()
	return fn()
}

// Classify tells which of the errors on opening and reading a file mean that what was in it is
// lost: all that are not the system's, and those of the system that will not pass.
func Classify(path string, err error) error {
	_, ofPath := errors.AsType[*os.PathError](err)
	_, ofSystem := errors.AsType[syscall.Errno](err)
	system := ofPath || ofSystem || errors.Is(err, berrors.ErrTimeout) || IsNoSpace(err)
	if IsDamage(err) || (system && !errors.Is(err, syscall.EIO) && !errors.Is(err, os.ErrNotExist)) {
		return err
	}
	return Damaged(path, err)
}

// IsNoSpace tells errors that pass by themselves from those that make a directory unusable.
func IsNoSpace(err error) bool {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		// bbolt drops the cause when it grows a file
		if errors.Is(err, e) || strings.Contains(err.Error(), e.Error()) {
			return true
		}
	}
	return false
}
