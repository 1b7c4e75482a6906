package sinks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"sync"
)

// signer makes the value of the header webhook-signature.
type signer struct {
	keys [][]byte
	// pool has *signing: the state of a key is worth keeping.
	pool sync.Pool
}

// signing is what one signature is made with.
type signing struct {
	// macs has one for each key.
	macs    []hash.Hash
	scratch []byte
}

// newSigner returns nil where there are no keys.
func newSigner(keys [][]byte) *signer {
	if len(keys) == 0 {
		return nil
	}
	return &signer{keys: keys}
}

func (s *signer) signing() *signing {
	if x, ok := s.pool.Get().(*signing); ok {
		return x
	}
	x := &signing{macs: make([]hash.Hash, len(s.keys))}
	for i, key := range s.keys {
		x.macs[i] = hmac.New(sha256.New, key)
	}
	return x
}

// sign returns what the Standard Webhooks specification says: for each key "v1," and the base64 of
// the HMAC-SHA256 over id.timestamp.body, separated by spaces. A consumer accepts the request if
// any of them is right, so that keys can be changed.
func (s *signer) sign(id, timestamp string, body []byte) string {
	x := s.signing()
	defer s.pool.Put(x)
	buf := append(x.scratch[:0], id...)
	buf = append(buf, '.')
	buf = append(buf, timestamp...)
	buf = append(buf, '.')
	prefix := len(buf)
	for i, mac := range x.macs {
		mac.Reset()
		mac.Write(buf[:prefix])
		mac.Write(body)
		if i > 0 {
			buf = append(buf, ' ')
		}
		buf = append(buf, "v1,"...)
		sum := len(buf)
		// These are the bytes, which their base64 then takes the place of.
		buf = mac.Sum(buf)
		encoded := base64.StdEncoding.AppendEncode(buf, buf[sum:])
		buf = append(buf[:sum], encoded[len(buf):]...)
	}
	x.scratch = buf
	return string(buf[prefix:])
}
