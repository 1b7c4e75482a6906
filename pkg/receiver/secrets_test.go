package receiver

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"testing"

	stomp "github.com/go-stomp/stomp/v3/frame"

	"github.com/hmcnotifyd/hmcnotifyd/tests/output"
)

// Whatever a broker repeats of what it knows, in whichever form and place, is in no error and no line of the log: what was sent
// to log on with, and the password of a userid whose session is used.
func TestRepeatedSecretsAreHidden(t *testing.T) {
	const password, credential, id = `pass&word%"1`, "c0dential<of>the&session", "id-of-the-session"
	forms := func(secret string) []string {
		return []string{
			secret, url.QueryEscape(secret), url.PathEscape(secret), strings.Trim(strconv.QuoteToASCII(secret), `"`),
			strings.NewReplacer("&", `\u0026`, "<", `\u003c`, ">", `\u003e`, `"`, `\"`).Replace(secret),
		}
	}
	for name, frame := range map[string]string{
		"in the message of an ERROR":     "ERROR\nmessage:no %s here\n\n\x00\n",
		"in another header of it":        "ERROR\nmessage:no\nlogin:%s\n\n\x00\n",
		"in the name of a header of it":  "ERROR\nmessage:no\n%s:x\n\n\x00\n",
		"in its body":                    "ERROR\n\nno %s here\n\x00\n",
		"in its body, at the limit":      "ERROR\nmessage:no\n\n" + strings.Repeat("x", bufferSize-4) + "%s\x00\n",
		"in the place of a frame":        "passcode:%s\n\n\x00\n",
		"in a header line without colon": "MESSAGE\n12345678901234567890123456789%s\n\n\x00\n",
		"in the length of a body":        "MESSAGE\ncontent-length:12345678901234567890123456789%s\n\n\x00\n",
		"as the subscription":            "MESSAGE\nsubscription:%s\n\n\x00\n",
	} {
		t.Run(name, func(t *testing.T) {
			for _, secret := range []string{password, credential, id} {
				for _, form := range forms(secret) {
					p := startPeer(t, "", func(_ int, c *peerConn) {
						c.serve(connected11, func(c *peerConn, _ *stomp.Frame) {
							_ = c.send("%s", strings.Replace(frame, "%s", strings.ReplaceAll(form, `\`, `\\`), 1))
							_ = c.Close()
						})
					})
					var lines output.Buffer
					o := p.options("u.1")
					o.Userid, o.Password = "", ""
					o.SessionID, o.SessionCredential, o.Secrets, o.Logger = id, credential, []string{password}, debugLogger(&lines)
					o.Config.ConnectRetries = 0
					r := newReceiver(t, o)
					var out strings.Builder
					for _, err := range r.Notifications(t.Context()) {
						if jms, ok := errors.AsType[*JMSError](err); ok {
							fmt.Fprintf(&out, "%v %s\n", jms.Headers, jms.Body)
						}
						fmt.Fprintf(&out, "%v\n", err)
					}
					out.WriteString(lines.String())
					for _, form := range append(forms(secret), secret[:8]) {
						if strings.Contains(out.String(), form) {
							t.Errorf("%q is shown:\n%.2000s", form, out.String())
						}
					}
				}
			}
		})
	}
}

// The same while the link is made.
func TestSecretsInTheLogonAreHidden(t *testing.T) {
	const password = `pass&sesame%"1`
	for _, answer := range []string{
		"ERROR\nmessage:User name [hmcuser] or password [%s] is invalid.\n\n\x00\n", "CONNECTED\nversion:%s\n\n\x00\n",
		"CONNECTED\nversion:1.1\nheart-beat:%s\n\n\x00\n", "CONNECT\nlogin:hmcuser\npasscode:%s\n\n\x00\n", "%s\n\n",
	} {
		for _, form := range []string{password, `pass\u0026sesame%\"1`, url.QueryEscape(password)} {
			p := startPeer(t, "", func(_ int, c *peerConn) {
				c.expect("CONNECT")
				_ = c.send("%s", strings.Replace(answer, "%s", form, 1))
			})
			o := p.options("u.1")
			o.Password, o.Config.ConnectRetries = password, 0
			err := newReceiver(t, o).Connect(t.Context())
			if err == nil || strings.Contains(err.Error(), "sesame") {
				t.Errorf("%q: %v", answer, err)
			}
		}
	}
}

// debugLogger writes everything to w, a line each.
func debugLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
