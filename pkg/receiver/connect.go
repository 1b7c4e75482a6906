package receiver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// acceptVersion is what we offer. zhmcclient offers 1.1 alone and every HMC in the field talks to
// it, while nobody has published what an HMC makes of 1.2; all 1.2 would add for us is a carriage
// return in a header. What the server then chooses is obeyed, be it 1.0 or 1.2.
const acceptVersion = "1.1"

// attempt makes one link: dial, TLS, STOMP logon. ctx carries the time limit of the attempt. The
// link's goroutines do not run yet.
func (r *Receiver) attempt(ctx context.Context) (*link, error) {
	conn, err := r.dial(ctx, "tcp", r.address)
	if err != nil {
		return nil, phase(ctx, err, "no TCP connection to "+r.address, "while connecting")
	}
	if err := setKeepalive(conn, r.config.Keepalive); err != nil {
		r.log.Debug("TCP options", slog.Any("error", err)) // a help, not a need
	}
	l := newLink(r, conn)
	// Whatever blocks below ends when ctx does, because its socket is closed.
	stop := context.AfterFunc(ctx, func() { _ = l.wire.Close() })
	err = l.logon(ctx)
	if !stop() && err == nil {
		err = phase(ctx, net.ErrClosed, "no CONNECTED", "during the STOMP logon")
	}
	if err != nil {
		_ = l.wire.Close()
		return nil, err
	}
	return l, nil
}

// phase names the part of an attempt that failed: late is what did not happen in time, doing what
// was going on.
func phase(ctx context.Context, err error, late, doing string) error {
	if timeout, ok := errors.AsType[*timeoutError](context.Cause(ctx)); ok {
		return &timeoutError{late, timeout.limit}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return readable(err, doing)
}

// withConnectTimeout limits ctx to ConnectTimeout; the cause of its end is a *timeoutError then.
func (r *Receiver) withConnectTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if limit := r.config.ConnectTimeout; limit > 0 {
		return context.WithTimeoutCause(ctx, limit, &timeoutError{"not done", limit})
	}
	return context.WithCancel(ctx)
}

// logon does the TLS handshake and the STOMP logon.
func (l *link) logon(ctx context.Context) error {
	r := l.r
	if r.tls != nil {
		conn := tls.Client(l.wire, r.tls)
		if err := conn.HandshakeContext(ctx); err != nil {
			if refused, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
				r.setPeerCertificates(refused.UnverifiedCertificates)
			}
			return tlsError(phase(ctx, err, "no TLS handshake with "+r.address, "during the TLS handshake"))
		}
		l.conn = conn
		r.setPeerCertificates(conn.ConnectionState().PeerCertificates)
	}
	const doing = "during the STOMP logon"
	config := r.config
	// zhmcclient and ActiveMQ do without host, STOMP 1.1 demands it.
	beat := fmt.Sprintf("%d,%d", config.HeartbeatSendCycle.Milliseconds(), config.HeartbeatReceiveCycle.Milliseconds())
	connect := appendFrame(nil, "CONNECT", "accept-version", acceptVersion, "host", r.opts.Host, headerHeartBeat, beat,
		"login", r.logons[r.spelling].login, "passcode", r.logons[r.spelling].passcode)
	if _, err := l.conn.Write(connect); err != nil {
		return phase(ctx, err, "CONNECT not sent", doing)
	}
	f, err := l.frames.next()
	defer r.buffer.give(&item{charged: f.charged})
	if err != nil {
		return phase(ctx, err, "no CONNECTED", doing)
	}
	l.tell(&f)
	switch f.command {
	case commandConnected:
		return l.negotiate(f.headers)
	case commandError:
		jms := r.jmsError(&f)
		reason := ReasonBroker
		if isLogonRefusal(&f) {
			reason = ReasonAuthorization
		}
		return &linkError{reason, "STOMP logon refused: " + jms.Error(), jms}
	default:
		return protocolErrorf("neither CONNECTED nor ERROR in answer to CONNECT")
	}
}

// logon is what CONNECT carries to log on with, as it goes over the wire.
type logon struct{ login, passcode string }

// spellings returns how a logon may have to be sent. STOMP has CONNECT unescaped, and so it goes
// out. But ActiveMQ undoes escapes in it nevertheless (tried with 5.17), so that a backslash which
// looks like the start of one must be doubled for it; a broker that follows STOMP would refuse
// that. Only for such a logon there are two spellings. ActiveMQ's is the first: it is the broker in
// an HMC, and each refused logon counts against the userid.
func spellings(plain logon) []logon {
	double := func(s string) string {
		for _, escape := range []string{`\\`, `\c`, `\n`, `\r`} {
			if strings.Contains(s, escape) {
				return strings.ReplaceAll(s, `\`, `\\`)
			}
		}
		return s
	}
	if doubled := (logon{double(plain.login), double(plain.passcode)}); doubled != plain {
		return []logon{doubled, plain}
	}
	return []logon{plain}
}

// tlsError marks what made a handshake fail unless that was the network, a timeout or the caller.
func tlsError(err error) error {
	if isTimeout(err) || isEnd(err) || errors.Is(err, context.Canceled) || errors.Is(err, ErrClosed) {
		return err
	}
	return &linkError{ReasonTLS, "TLS handshake: " + err.Error(), err}
}

// negotiate takes over what the server chose in its CONNECTED frame.
func (l *link) negotiate(h Headers) error {
	switch version := h.Get(headerVersion); version {
	case "", "1.0": // a 1.0 server has no such header, and no escapes
	case "1.1", "1.2":
		l.escapes = true
		l.frames.escapes = true
		l.frames.carriageReturns = version == "1.2"
	default:
		return protocolErrorf("the broker chose STOMP version %s", l.frames.quote(version))
	}
	beat := h.Get(headerHeartBeat)
	serverSends, serverWants, ok := parseHeartBeat(beat)
	if !ok {
		return protocolErrorf("malformed heart-beat %s in CONNECTED", l.frames.quote(beat))
	}
	config := l.r.config
	l.sendCycle = agree(config.HeartbeatSendCycle, serverWants)
	l.receiveCycle = agree(config.HeartbeatReceiveCycle, serverSends)
	l.writeLimit = defaultWriteLimit
	if config.ConnectTimeout > 0 {
		l.writeLimit = config.ConnectTimeout
	}
	if l.receiveCycle > 0 {
		// A cycle of milliseconds with a tolerance of millions still has to fit.
		limit := min(float64(l.receiveCycle)*(1+config.HeartbeatReceiveCheck), float64(maxHeartbeatCycle))
		l.wire.silence = time.Duration(limit)
		// A peer that takes nothing is as dead as one that says nothing.
		l.writeLimit = max(l.wire.silence, minWriteLimit)
	}
	return nil
}

// agree is STOMP's rule for one direction: the longer of what one side offers and the other wants,
// none if either is none.
func agree(ours, theirs time.Duration) time.Duration {
	if ours == 0 || theirs == 0 {
		return 0
	}
	return max(ours, theirs)
}

// parseHeartBeat reads "sends,wants" in milliseconds. Without the header there are no heart-beats.
func parseHeartBeat(text string) (sends, wants time.Duration, ok bool) {
	if text == "" {
		return 0, 0, true
	}
	ok = true
	first, second, _ := strings.Cut(text, ",")
	parse := func(s string) time.Duration {
		ms, err := strconv.ParseUint(strings.TrimSpace(s), 10, 31)
		ok = ok && err == nil
		return time.Duration(ms) * time.Millisecond
	}
	sends, wants = parse(first), parse(second)
	return sends, wants, ok
}

// isLogonRefusal tells a refused userid or password from the other reasons for an ERROR in the
// place of CONNECTED. Nobody has published the HMC's own words; ActiveMQ's are "User name [x] or
// password is invalid." and "java.lang.SecurityException". It takes any talk of users and
// permissions for a refusal, because a refused logon that is repeated makes the HMC disable the
// userid, while an attempt too few costs seconds.
func isLogonRefusal(f *frame) bool {
	body := f.body[:min(len(f.body), 1<<10)]
	text := strings.ToLower(f.headers.Get(headerMessage) + "\n" + string(body))
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(text, word) })
	}
	// A stack trace may name anything.
	return !has("protocol version", "heart-beat", "heart beat") && has(
		"password", "passcode", "user name", "username", "userid", "user id", "login", "logon", "log on", "logged on",
		"credential", "authenti", "authori", "permission", "not permitted", "not allowed", "denied",
		"securityexception", "session", "expired", "disabled", "locked", "revoked")
}

// verifiedTLS returns the TLS configuration of the link: the caller's, or the system's roots, for
// the host's name.
func verifiedTLS(config *tls.Config, host string) *tls.Config {
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	} else {
		config = config.Clone()
	}
	if config.ServerName == "" {
		// No certificate names a zone.
		config.ServerName, _, _ = strings.Cut(host, "%")
	}
	return config
}

func (r *Receiver) setPeerCertificates(certs []*x509.Certificate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.certs = certs
}
