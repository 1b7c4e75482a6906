package sinks

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"time"
)

// form is a request of a webhook, to be filled in. To make one costs more than to fill it in: it is
// used again where that is possible.
type form struct {
	*http.Request
	keys [][]byte
	// values are those of the header that are others each time, second is what the second one says.
	values [3]string
	second int64
	body   []byte
	reader bytes.Reader
	// given counts the connections that were to send the request, read those that have read all of
	// it: a server may answer before.
	given, read atomic.Int32
}

// newForm makes a form of requests within ctx. counted says that it may be used again.
func (w *webhook) newForm(ctx context.Context, counted bool) *form {
	f := &form{keys: w.keys}
	header := make(http.Header, len(w.header)+len(f.values))
	maps.Copy(header, w.header) // the values are shared: the transport does not change them
	header["Webhook-Id"] = f.values[0:1:1]
	header["Webhook-Timestamp"] = f.values[1:2:2]
	if len(w.keys) > 0 {
		header["Webhook-Signature"] = f.values[2:3:3]
	}
	if counted {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GetConn:      func(string) { f.given.Add(1) },
			WroteRequest: func(httptrace.WroteRequestInfo) { f.read.Add(1) },
		})
	}
	f.Request = w.post(ctx, header)
	f.Body = io.NopCloser(&f.reader) // which the transport takes for what does not block
	f.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(f.body)), nil }
	return f
}

// fill makes the request with a body. The request is the form's.
func (f *form) fill(id string, now time.Time, body []byte) *http.Request {
	f.values[0] = id
	if second := now.Unix(); second != f.second || f.values[1] == "" {
		f.values[1], f.second = strconv.FormatInt(second, 10), second
	}
	if len(f.keys) > 0 {
		f.values[2] = sign(f.keys, f.values[0], f.values[1], body)
	}
	f.body, f.ContentLength = body, int64(len(body))
	f.reader.Reset(body)
	return f.Request
}

// blank forgets the body, after the answer. It returns false where a connection may still read the
// form, which must not be filled in again then.
func (f *form) blank() bool {
	if f.given.Load() != f.read.Load() {
		return false
	}
	f.body = nil
	f.reader.Reset(nil)
	return true
}
