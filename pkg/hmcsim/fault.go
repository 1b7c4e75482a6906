package hmcsim

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// FaultKind names one way in which a STOMP connection misbehaves.
type FaultKind string

// What can go wrong with a STOMP connection. The first group acts while the connection is made, the
// second changes how the broker behaves on it from its start, the third happens when the fault's
// AfterFrames or After says.
const (
	// nothing: a script's place for a connection that works.
	FaultNone        FaultKind = "none"
	FaultClose       FaultKind = "close"        // accepted and closed at once
	FaultReset       FaultKind = "reset"        // accepted and reset (RST) at once
	FaultHangTLS     FaultKind = "hang-tls"     // accepted, the TLS handshake never goes on
	FaultHangConnect FaultKind = "hang-connect" // CONNECT is read, CONNECTED never comes
	FaultBadLogin    FaultKind = "bad-login"    // the logon is refused, whatever it says

	FaultEarlyEOLs   FaultKind = "early-eols"    // EOLs before CONNECTED
	FaultNoHeartBeat FaultKind = "no-heart-beat" // CONNECTED says heart-beat:0,0, and none are sent
	FaultNoReceipts  FaultKind = "no-receipts"   // no RECEIPT is ever sent
	// SUBSCRIBE to Topic is refused, as if it were unknown.
	FaultRefuseTopic FaultKind = "refuse-topic"

	FaultDrop     FaultKind = "drop"     // the connection is closed
	FaultTruncate FaultKind = "truncate" // half a MESSAGE, then closed
	FaultSilence  FaultKind = "silence"  // no more notifications; heart-beats go on
	// nothing more is sent or answered, and the connection stays.
	FaultHalfOpen FaultKind = "half-open"
	FaultGarbage  FaultKind = "garbage" // Size bytes that are no frame
	// an ERROR frame nobody asked for, with Message.
	FaultError          FaultKind = "error"
	FaultOversizeHeader FaultKind = "oversize-header" // a MESSAGE with a header line of Size bytes
	FaultOversizeBody   FaultKind = "oversize-body"   // a MESSAGE with a body of Size bytes
	FaultDrip           FaultKind = "drip"            // bytes come one by one, Interval apart
)

// FaultKinds lists every kind.
func FaultKinds() []FaultKind {
	return []FaultKind{
		FaultNone, FaultClose, FaultReset, FaultHangTLS, FaultHangConnect, FaultBadLogin,
		FaultEarlyEOLs, FaultNoHeartBeat, FaultNoReceipts, FaultRefuseTopic,
		FaultDrop, FaultTruncate, FaultSilence, FaultHalfOpen, FaultGarbage, FaultError, FaultOversizeHeader,
		FaultOversizeBody, FaultDrip,
	}
}

// Fault is one fault of one STOMP connection. The zero values of all fields but Kind are useful
// defaults.
type Fault struct {
	Kind FaultKind

	// When a fault of the third group happens: after so many MESSAGE frames on the connection,
	// counted from its start (for Broker.FaultNow: from now), or so long after CONNECTED (from
	// now). Both zero: as soon as the connection is CONNECTED (now). The frames of Broker.Flood
	// count by the block of about 128 KiB.
	AfterFrames int
	After       time.Duration

	// FaultRefuseTopic: a part of the topic's name; "" = every topic
	Topic string
	// FaultError: the header message; "" = a general one. FaultBadLogin: the header message and
	// the body; "" = those of ActiveMQ, as the HMC's own are not known
	Message string
	// FaultRefuseTopic, FaultError: the broker closes the connection after the ERROR
	Close bool
	// FaultRefuseTopic: the ERROR carries no receipt-id
	NoReceiptID bool
	// FaultGarbage (1 KiB), FaultOversizeHeader (1 MiB), FaultOversizeBody (65 MiB),
	// FaultEarlyEOLs (2 EOLs)
	Size int
	// FaultDrip: 1 ms
	Interval time.Duration
}

// size returns Size or its default.
func (f *Fault) size() int {
	if f.Size > 0 {
		return f.Size
	}
	switch f.Kind {
	case FaultOversizeHeader:
		return 1 << 20
	case FaultOversizeBody:
		return 65 << 20
	case FaultEarlyEOLs:
		return 2
	default:
		return 1 << 10
	}
}

// timed says whether the fault happens at some time after CONNECTED.
func (f *Fault) timed() bool {
	switch f.Kind {
	case FaultDrop, FaultTruncate, FaultSilence, FaultHalfOpen, FaultGarbage, FaultError, FaultOversizeHeader,
		FaultOversizeBody, FaultDrip:
		return true
	default:
		return false
	}
}

// String gives the form that ParseFault reads.
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(string(f.Kind))
	add := func(key, value string) { b.WriteString("," + key + "=" + value) }
	if f.AfterFrames != 0 {
		add("frames", strconv.Itoa(f.AfterFrames))
	}
	if f.After != 0 {
		add("after", f.After.String())
	}
	if f.Topic != "" {
		add("topic", f.Topic)
	}
	if f.Message != "" {
		add("message", f.Message)
	}
	if f.Close {
		add("close", "true")
	}
	if f.NoReceiptID {
		add("no-receipt-id", "true")
	}
	if f.Size != 0 {
		add("size", strconv.Itoa(f.Size))
	}
	if f.Interval != 0 {
		add("interval", f.Interval.String())
	}
	return b.String()
}

// ParseFault reads a fault from its text: the kind, then settings, separated by commas, for example
// "drop,frames=100", "refuse-topic,topic=aud,close=true" or "half-open,after=30s".
func ParseFault(s string) (Fault, error) {
	parts := strings.Split(s, ",")
	f := Fault{Kind: FaultKind(strings.TrimSpace(parts[0]))}
	known := false
	for _, k := range FaultKinds() {
		known = known || k == f.Kind
	}
	if !known {
		return Fault{}, fmt.Errorf("hmcsim: fault %q: kind %q is unknown", s, f.Kind)
	}
	for _, part := range parts[1:] {
		key, value, ok := strings.Cut(part, "=")
		if !ok {
			return Fault{}, fmt.Errorf("hmcsim: fault %q: %q is no key=value", s, part)
		}
		var err error
		switch key = strings.TrimSpace(key); key {
		case "frames":
			f.AfterFrames, err = strconv.Atoi(value)
		case "after":
			f.After, err = time.ParseDuration(value)
		case "topic":
			f.Topic = value
		case "message":
			f.Message = value
		case "close":
			f.Close, err = strconv.ParseBool(value)
		case "no-receipt-id":
			f.NoReceiptID, err = strconv.ParseBool(value)
		case "size":
			f.Size, err = strconv.Atoi(value)
		case "interval":
			f.Interval, err = time.ParseDuration(value)
		default:
			return Fault{}, fmt.Errorf("hmcsim: fault %q: setting %q is unknown", s, key)
		}
		if err != nil {
			return Fault{}, fmt.Errorf("hmcsim: fault %q: %s: %w", s, key, err)
		}
	}
	return f, nil
}

// ParseScript reads a script: the faults of each next connection, separated by semicolons; several
// faults of one connection are joined by "+". "none" stands for a connection that works. Example:
// "hang-tls; none; no-receipts+drop,frames=10".
func ParseScript(s string) ([][]Fault, error) {
	var script [][]Fault
	for conn := range strings.SplitSeq(s, ";") {
		if strings.TrimSpace(conn) == "" {
			continue
		}
		var faults []Fault
		for part := range strings.SplitSeq(conn, "+") {
			f, err := ParseFault(strings.TrimSpace(part))
			if err != nil {
				return nil, err
			}
			faults = append(faults, f)
		}
		script = append(script, faults)
	}
	return script, nil
}
