// Package httpbody reads the bodies of requests for servers of tests.
package httpbody

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
)

// ErrTooLarge says that a body is above the limit.
var ErrTooLarge = errors.New("too large")

// Read reads a body, which may be compressed. One that is announced with more bytes than limit is
// ErrTooLarge.
func Read(r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		_, _ = io.Copy(io.Discard, r.Body)
		return nil, ErrTooLarge
	}
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, err
		}
		body = z
	}
	return io.ReadAll(body)
}
