package sinks

import (
	"bytes"
	"compress/gzip"
	"sync"
)

// compressor compresses bodies. Its writers are worth keeping: each has several hundred KiB of
// tables.
type compressor struct{ writers sync.Pool }

func (c *compressor) compress(body []byte) []byte {
	var b bytes.Buffer
	w, ok := c.writers.Get().(*gzip.Writer)
	if ok {
		w.Reset(&b)
	} else {
		w, _ = gzip.NewWriterLevel(&b, gzip.BestSpeed) // the level is valid
	}
	_, _ = w.Write(body) // a bytes.Buffer takes everything
	_ = w.Close()
	w.Reset(nil) // a kept writer does not keep the body
	c.writers.Put(w)
	return b.Bytes()
}
