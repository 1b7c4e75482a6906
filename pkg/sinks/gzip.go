package sinks

import (
	"bytes"
	"compress/gzip"
	"sync"
)

// gzipWriters are worth keeping: each has several hundred KiB of tables.
var gzipWriters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is valid
	return w
}}

func compress(body []byte) []byte {
	var b bytes.Buffer
	w, _ := gzipWriters.Get().(*gzip.Writer)
	w.Reset(&b)
	_, _ = w.Write(body) // a bytes.Buffer takes everything
	_ = w.Close()
	w.Reset(nil) // a kept writer does not keep the body
	gzipWriters.Put(w)
	return b.Bytes()
}
