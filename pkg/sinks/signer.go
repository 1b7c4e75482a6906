package sinks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"strings"
)

// sign returns the value of the header webhook-signature, as the Standard Webhooks specification
// says: for each key "v1," and the base64 of the HMAC-SHA256 over id.timestamp.body, separated by
// spaces. A consumer accepts the request if any of them is right, so that keys can be changed.
func sign(keys [][]byte, id, timestamp string, body []byte) string {
	signatures := make([]string, len(keys))
	for i, key := range keys {
		mac := hmac.New(sha256.New, key)
		_, _ = io.WriteString(mac, id+"."+timestamp+".") // a hash does not fail
		_, _ = mac.Write(body)
		signatures[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return strings.Join(signatures, " ")
}
