package hmc

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// noteAge is for how long the note of a session is of use: long before that the HMC has ended a
// session that nobody uses.
const noteAge = 30 * 24 * time.Hour

// noteMark stands between Options.SessionNotes and what tells its files from each other.
const noteMark = "~"

// maxNote bounds what is read of a note, in bytes: no host and no id is that long.
const maxNote = 64 << 10

// note is what a logoff needs of a session, as it is kept in a file.
type note struct {
	Host string `json:"host"`
	Port int    `json:"port"`
	ID   string `json:"id"`
}

// note keeps what a logoff needs, until that has been. Nothing is synced: what counts is a process
// that is killed, and the session of a machine that loses power ends by its idle time.
func (s *Session) note() {
	prefix := s.c.opts.SessionNotes
	if prefix == "" || s.id == "" {
		return
	}
	data, err := json.Marshal(note{Host: s.host, Port: s.c.opts.Port, ID: s.id})
	if err == nil {
		s.file = prefix + noteMark + rand.Text()
		if err = os.MkdirAll(filepath.Dir(prefix), 0o700); err == nil {
			err = writeNote(s.file, data)
		}
	}
	if err != nil {
		s.forget()
		s.c.log.Warn("a session could not be noted: if this process is killed, it stays on the HMC until it has idled",
			slog.Any("error", err))
	}
}

// writeNote makes the file of a note, where there is none, and through no link.
func writeNote(path string, data []byte) error {
	if err := isDirectory(filepath.Dir(path)); err != nil {
		return err
	}
	f, err := datadir.Open(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// readNote reads a note, through no link. One that is of no use has no ID.
func readNote(path string) (n note, err error) {
	f, err := datadir.Open(path, os.O_RDONLY)
	if err != nil {
		return n, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxNote))
	if err = errors.Join(err, f.Close()); err == nil && json.Unmarshal(data, &n) != nil { // half of it was written
		return note{}, nil
	}
	return n, err
}

// isDirectory says whether a path is a directory, and no link to one.
func isDirectory(path string) error {
	info, err := os.Lstat(path)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("hmc: %s is no directory: remove it", path)
	}
	return err
}

// forget removes the note of a session that has ended.
func (s *Session) forget() {
	if s.file != "" {
		_ = os.Remove(s.file) // if it stays, one more logoff finds no session
	}
}

// left are the sessions that were noted and not logged off, by this process or one before it.
func (c *Client) left() (sessions []*Session) {
	prefix := c.opts.SessionNotes
	if prefix == "" {
		return nil
	}
	dir := filepath.Dir(prefix)
	if isDirectory(dir) != nil {
		return nil // note says so
	}
	entries, _ := os.ReadDir(dir) // none, or as many as could be read
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		owner, _, isNote := strings.Cut(e.Name(), noteMark)
		if !isNote {
			continue
		}
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) > noteAge {
			_ = os.Remove(path)
			continue
		}
		if owner != filepath.Base(prefix) {
			continue
		}
		n, err := readNote(path)
		switch {
		case err != nil:
			c.log.Warn("the note of a session is not used", slog.Any("error", err))
		case n == note{}:
			_ = os.Remove(path)
		}
		if n.ID == "" || n.Port != c.opts.Port || !slices.Contains(c.opts.Hosts, n.Host) {
			continue // the token is for nobody but the host that gave it
		}
		s := c.Resume(n.ID, "")
		s.host, s.file = n.Host, path
		sessions = append(sessions, s)
	}
	return sessions
}

// logoffLeft logs off sessions that are left and fit.
func (c *Client) logoffLeft(ctx context.Context, fits func(*Session) bool) error {
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	var errs []error
	for _, s := range c.left() {
		if !fits(s) {
			continue
		}
		if err := s.Logoff(ctx); err != nil {
			errs = append(errs, err)
			continue
		}
		c.log.Info("a session that was left on the HMC was logged off", slog.String("host", s.host))
	}
	return errors.Join(errs...)
}

// LogoffOthers logs off all sessions but this one that Options.SessionNotes has, on whichever of
// the hosts. Those whose host does not answer stay noted, and are in the error.
func (s *Session) LogoffOthers(ctx context.Context) error {
	return s.c.logoffLeft(ctx, func(o *Session) bool { return o.id != s.id })
}
