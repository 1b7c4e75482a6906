package hmc

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// noteAge is for how long the note of a session is of use: long before that the HMC has ended a
// session that nobody uses.
const noteAge = 30 * 24 * time.Hour

// noteMark stands between Options.SessionNotes and what tells its files from each other.
const noteMark = "~"

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
			err = os.WriteFile(s.file, data, 0o600)
		}
	}
	if err != nil {
		s.forget()
		s.c.log.Warn("a session could not be noted: if this process is killed, it stays on the HMC until it has idled",
			zap.Error(err))
	}
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
		var n note
		data, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(data, &n) != nil { // half of it was written
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
		c.log.Info("a session that was left on the HMC was logged off", zap.String("host", s.host))
	}
	return errors.Join(errs...)
}

// LogoffOthers logs off all sessions but this one that Options.SessionNotes has, on whichever of
// the hosts. Those whose host does not answer stay noted, and are in the error.
func (s *Session) LogoffOthers(ctx context.Context) error {
	return s.c.logoffLeft(ctx, func(o *Session) bool { return o.id != s.id })
}
