package support

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

// Options say where to look.
type Options struct {
	// Program is the version of the program, as it prints it.
	Program string
	// ConfigFile is the file of the configuration; Log that of the daemon's log, "" for none and
	// "-" for Stdin.
	ConfigFile, Log string
	Stdin           io.Reader
	// Get asks the daemon; an answer that is no success is an error.
	Get func(ctx context.Context, path string, query url.Values) (*http.Response, error)
}

// Bundle writes a bundle to a file, which must not be there yet, and what is in it to list.
func Bundle(ctx context.Context, file string, list io.Writer, o Options) (err error) {
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err != nil {
			err = errors.Join(err, os.Remove(file))
		}
	}()
	s, err := collect(ctx, o)
	if err != nil {
		return err
	}
	files, err := s.files(ctx)
	if err != nil {
		return err
	}
	if _, err := list.Write(files[0].content); err != nil {
		return fmt.Errorf("the output: %w", err)
	}
	return write(out, files, time.Now())
}

// collect gets the parts of a bundle. What cannot be had is missing from it, and it says why; it is
// an error where that is all there is to say.
func collect(ctx context.Context, o Options) (*source, error) {
	s := &source{program: o.Program, missing: make(map[string]string)}
	var err error
	if s.loaded, err = config.Load(o.ConfigFile); err == nil {
		s.config, err = os.ReadFile(o.ConfigFile)
	}
	if err != nil { // of one with a mistake it is not known what in it is secret
		s.missing["config.yaml"] = err.Error()
	}
	get := func(path string, query url.Values, read func(io.Reader)) error {
		resp, err := o.Get(ctx, path, query)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		read(resp.Body)
		return nil
	}
	all := func(into *[]byte, part string) func(io.Reader) {
		return func(in io.Reader) {
			text, err := io.ReadAll(io.LimitReader(in, maxFile))
			if *into = text; err != nil {
				s.missing[part] = err.Error()
			}
		}
	}
	if err := get("/api/v1/status", nil, all(&s.status, "status.json")); err != nil {
		if s.config == nil {
			return nil, err
		}
		s.missing["status.json"] = err.Error()
	}
	if err := get("/metrics", nil, all(&s.metrics, "metrics.txt")); err != nil {
		s.missing["metrics.txt"] = err.Error()
	}
	last := url.Values{"last": {strconv.Itoa(lastOnes)}}
	err = get("/api/v1/events", last, func(in io.Reader) { s.events = lastEvents(in, time.Now()) })
	if err != nil {
		s.missing["events.jsonl"] = err.Error()
	}
	switch o.Log {
	case "":
		s.missing["log.jsonl"] = "--log names it; from the journal of systemd: " +
			"journalctl -u hmcnotifyd -o cat | hmcnotifyd support --log - --out FILE"
	case "-":
		s.log, err = lastLines(o.Stdin)
	default:
		var f *os.File
		if f, err = os.Open(o.Log); err == nil {
			s.log, err = lastLines(f)
			_ = f.Close()
		}
	}
	if o.Log != "" && err != nil {
		return nil, fmt.Errorf("--log: %w", err)
	}
	return s, nil
}

// lastLines returns the last lines of a log. It is never nil.
func lastLines(in io.Reader) ([][]byte, error) {
	lines := make([][]byte, 0, lastOnes)
	scan := bufio.NewScanner(in)
	scan.Buffer(make([]byte, 64<<10), maxLine)
	for scan.Scan() {
		if len(lines) == lastOnes {
			lines = append(lines[:0], lines[1:]...)
		}
		lines = append(lines, bytes.Clone(scan.Bytes()))
	}
	if err := scan.Err(); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return lines, nil
}

// lastEvents reads those events of the stream that were there when it was asked for: it goes on
// with what is new, and with signs of life. It is never nil.
func lastEvents(in io.Reader, asked time.Time) [][]byte {
	events := make([][]byte, 0, lastOnes)
	scan := bufio.NewScanner(io.LimitReader(in, maxFile))
	scan.Buffer(make([]byte, 64<<10), maxLine)
	for len(events) < lastOnes && scan.Scan() {
		line := scan.Bytes()
		if bytes.HasPrefix(line, []byte(": heart-beat")) {
			break
		}
		data, ok := bytes.CutPrefix(line, []byte("data:"))
		if !ok {
			continue
		}
		var e struct {
			ID       string    `json:"id"`
			Received time.Time `json:"received"`
		}
		if json.Unmarshal(data, &e) != nil || e.ID == "" { // that events were lost, for example
			continue
		}
		if e.Received.After(asked) {
			break
		}
		events = append(events, bytes.Clone(bytes.TrimSpace(data)))
	}
	return events
}
