// Package receiver receives the notifications of an IBM Z or LinuxONE Hardware Management Console
// (HMC): status and property changes, inventory changes, job completions, console messages of
// operating systems, audit and security log entries. It is the counterpart for Go of zhmcclient's
// NotificationReceiver and StompRetryTimeoutConfig, with their names, and can be used on its own by
// any program.
//
//	r, err := receiver.New(receiver.Options{
//		Host: "hmc1.example.com", Userid: "monitor", Password: password,
//		Topics: []string{"monitor.145"}, // from Get Notification Topics
//	})
//	if err != nil {
//		return err
//	}
//	defer r.Close()
//	for {
//		for n, err := range r.Notifications(ctx) { // connects, and again after a loss
//			if err != nil {
//				... // see Notifications
//			}
//			fmt.Println(n.Topic, n.Headers.Get("notification-type"), string(n.Body))
//		}
//	}
//
// # What a program may rely on
//
//   - A topic that was once given or subscribed to is wanted until it is unsubscribed or the HMC
//     refuses it. Every connection subscribes to everything that is wanted. When Connect or
//     Subscribe return nil on a live link, the HMC has confirmed.
//   - What was received is yielded once and in order, also when a loop is left and begun again,
//     after Close, and before the loss of the link it came over. Only a hand-over buffer that stays
//     full loses notifications, and each of those is reported (Options.OnMissed). What the HMC
//     publishes while there is no link it does not keep; the headers session-sequence-nr and
//     global-sequence-nr show gaps.
//   - The link is looked after whatever the consumer does: heart-beats go out at half the agreed
//     cycle, and a peer that is silent for longer than agreed, or takes no bytes, is given up. A
//     server that agrees to no heart-beats may be silent; TCP keep-alive notices when it is dead.
//   - Everything ends when its context does, and within its time limit, in every phase: dial, TLS
//     handshake, logon, receipts. After Close no goroutine and no socket is left.
//   - The cause of every failure is kept: a *ConnectionError has a Reason and wraps the cause, down
//     to the errors of crypto/x509 and to the ERROR frame of the broker. No error holds the
//     password, the session id or the session credential.
//   - A refused logon is not repeated: the HMC disables a userid after a few.
//   - An ERROR about one topic costs that topic only, also where the broker then closes the link.
//   - The memory a peer can make a Receiver use is limited (Limits).
//
// # Protocol
//
// An HMC contains an Apache ActiveMQ broker and speaks STOMP over TLS on port 61612. The receiver
// offers STOMP 1.1, which is what works with every HMC in the field, and accepts 1.0 and 1.2. It
// sends CONNECT unescaped, as STOMP has it, but for a backslash that ActiveMQ would take for the
// start of an escape, so that any password without a line end can log on (only one with such a
// backslash is tried in STOMP's spelling too when it is refused in ActiveMQ's). Frames end with NUL
// and LF and have no content-length, and job completions and inventory changes have an empty body,
// as captured from real HMCs.
//
// It is lenient where nothing can be misread: EOLs between frames, CR LF line ends, undefined
// escapes and header values that are not UTF-8 (both kept as they are), messages without
// subscription header (found by destination) or for a subscription that is over (ignored). It ends
// the link over what it could only guess at: an unknown command, a header line without colon, a
// content-length that is not a number, a frame beyond a limit.
package receiver
