// Package datadir opens the files of a directory that belongs to one user: for that user alone, and
// never through a link, so that nobody who can write there makes the daemon read or change another
// file. The path of the directory itself may hold links: it is the operator's.
package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Make makes a directory and those above it, for this user alone (mode 0700), or finds it. The name
// of a new one is on disk when it returns: else a loss of power could take all that is in it.
//
// trouble says how others get at a directory that was found, in one line with the remedy; "": they
// do not. That is no error: where volumes have one owner for everything, as some of Kubernetes and
// NFS do, it cannot be mended.
func Make(dir string) (trouble string, err error) {
	if info, err := os.Stat(dir); err == nil {
		return exposure(dir, info), nil // a file in its place shows when it is used
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := Sync(filepath.Dir(dir)); err != nil && !errors.Is(err, fs.ErrPermission) {
		return "", err
	}
	return "", nil
}

// exposure says how others get at a directory.
func exposure(dir string, info fs.FileInfo) string {
	if owner := ownerOf(info); owner != os.Geteuid() && owner != 0 {
		return fmt.Sprintf("%s belongs to the user %d, who can read and change all that is stored: chown -R %d %s",
			dir, owner, os.Geteuid(), dir)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		can := "list what is stored"
		if mode&0o022 != 0 {
			can = "delete what is stored"
		}
		return fmt.Sprintf("%s has the mode %#o, so that others can %s: chmod 0700 %s", dir, mode, can, dir)
	}
	return ""
}

// IsPrivate says whether a path is a directory that belongs to this user, for this user alone, and
// no link to one.
func IsPrivate(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir() && ownerOf(info) == os.Geteuid() && info.Mode().Perm()&0o077 == 0
}

// Open opens a file as os.OpenFile does; one that it makes is for this user alone (mode 0600). What
// is no regular file (a link to one neither, or a pipe, for which others would wait), or belongs to
// neither this user nor root nor the owner of the directory, is a *fs.PathError that says so: it
// takes a person to find out who put it there.
func Open(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		// What is said of a link depends on the system.
		if info, lerr := os.Lstat(path); lerr == nil && !info.Mode().IsRegular() {
			err = unusable(path, info)
		}
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = unusable(path, info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// unusable says why something in the place of a file is not used.
func unusable(path string, info fs.FileInfo) error {
	refuse := func(format string, args ...any) error {
		return &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf(format, args...)}
	}
	switch mode := info.Mode(); {
	case mode&fs.ModeSymlink != 0:
		return refuse("it is a symbolic link, which could lead anywhere: put the file itself there, or remove it")
	case !mode.IsRegular():
		return refuse("it is no regular file: remove it")
	}
	owner := ownerOf(info)
	if owner == os.Geteuid() || owner == 0 {
		return nil
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil || ownerOf(dir) == owner {
		return err
	}
	return refuse("it belongs to the user %d, and neither to this one (%d) nor to the owner of the directory: "+
		"see who put it there, then chown or remove it", owner, os.Geteuid())
}

func ownerOf(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return os.Geteuid()
}

// WriteNew makes a file that holds the content, on disk, in the place of one of the same name.
// After an error there is none.
func WriteNew(system System, path string, content []byte) (SystemFile, error) {
	if err := system.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := system.Open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	if _, err = f.WriteAt(content, 0); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), system.Remove(path))
	}
	return f, nil
}

// Truncate cuts a file to a size.
func Truncate(path string, size int64) error {
	f, err := Open(path, os.O_WRONLY)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// Sync makes the creation, renaming and removal of files in a directory durable.
func Sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
