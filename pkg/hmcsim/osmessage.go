package hmcsim

import (
	"fmt"
	"slices"
	"strconv"
)

// osMessage is one message of an operating system, as the HMC holds it.
type osMessage struct {
	seq       int64
	id        int
	text      string
	timestamp int64 // ms; -1: the operating system gave none, normal for Linux
	prompt    string
	alarm     bool
	priority  bool
	held      bool
	reply     int // the id to answer it with
}

// appendJSON appends the message in the form of a public capture. In it message-id is a string and
// prompt-text ""; other sources have a number and null, so some partitions have those. refresh nil
// leaves is-refresh out, as List OS Messages does. offset is added to the sequence number.
func (m *osMessage) appendJSON(b []byte, p *partition, offset int64, refresh *bool) []byte {
	b = append(b, `{"sequence-number":`...)
	b = strconv.AppendInt(b, m.seq+offset, 10)
	b = append(b, `,"message-id":`...)
	if p.numericIDs {
		b = strconv.AppendInt(b, int64(m.id), 10)
	} else {
		b = append(b, '"')
		b = strconv.AppendInt(b, int64(m.id), 10)
		b = append(b, '"')
	}
	b = append(b, `,"message-text":`...)
	b = appendString(b, m.text)
	b = append(b, `,"os-name":`...)
	if name := p.system; name != "" {
		b = appendString(b, name)
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"timestamp":`...)
	b = strconv.AppendInt(b, m.timestamp, 10)
	b = append(b, `,"sound-alarm":`...)
	b = strconv.AppendBool(b, m.alarm)
	b = append(b, `,"is-priority":`...)
	b = strconv.AppendBool(b, m.priority)
	b = append(b, `,"is-held":`...)
	b = strconv.AppendBool(b, m.held)
	if refresh != nil {
		b = append(b, `,"is-refresh":`...)
		b = strconv.AppendBool(b, *refresh)
	}
	b = append(b, `,"prompt-text":`...)
	if m.prompt == "" && p.numericIDs {
		b = append(b, "null"...)
	} else {
		b = appendString(b, m.prompt)
	}
	return append(b, '}')
}

// newOSMessage makes a partition's next message.
func (w *world) newOSMessage(p *partition, text string) osMessage {
	m := osMessage{seq: p.nextSeq, text: text, timestamp: -1}
	p.nextSeq++
	if p.zos {
		m.id = 2328551 + int(m.seq)
		m.timestamp = w.opts.now().UnixMilli()
		// z/OS marks what waits for an answer with an asterisk and a reply number.
		var reply int
		if n, err := fmt.Sscanf(text, "*%02d ", &reply); n == 1 && err == nil {
			m.held, m.priority, m.alarm = true, true, true
			m.prompt, m.reply = fmt.Sprintf("R %02d,", reply), reply
		}
	}
	return m
}

// keep lets the HMC hold a message. The oldest go when there are too many; those held for an answer
// stay longest.
func (p *partition) keep(m osMessage) {
	if len(p.messages) >= p.keepMessages {
		i := slices.IndexFunc(p.messages, func(m osMessage) bool { return !m.held && !m.priority })
		p.messages = slices.Delete(p.messages, max(i, 0), max(i, 0)+1)
	}
	p.messages = append(p.messages, m)
}

// held returns the messages that the HMC holds.
func (p *partition) held() []osMessage { return p.messages }

// write lets the operating system of a partition write a message, and the HMC hold it. That an
// answer was taken is a message too: what waited for it is not held any more.
func (w *world) write(p *partition, text string) osMessage {
	m := w.newOSMessage(p, text)
	var reply int
	if n, err := fmt.Sscanf(text, "IEE600I REPLY TO %02d IS;", &reply); n == 1 && err == nil {
		p.answered(reply)
	}
	p.keep(m)
	return m
}

// tellOS lets the operating system of a partition write one message for each text; they come in one
// notification.
func (w *world) tellOS(p *partition, texts ...string) int {
	if len(texts) == 0 {
		return 0
	}
	batch := make([]osMessage, 0, len(texts))
	for _, text := range texts {
		batch = append(batch, w.write(p, text))
	}
	w.happened++
	if p.oldStatus != "" { // the SE holds them, and nobody hears of them
		return 0
	}
	n := 0
	for _, h := range w.hmcs {
		n += h.laterLocked(func() int { return h.publishOSLocked(p, batch) })
	}
	return n
}

// publishOSLocked publishes messages on the channels of a partition.
func (h *HMC) publishOSLocked(p *partition, batch []osMessage) int {
	n := 0
	var m Message
	for _, s := range h.order {
		t := s.channels[p]
		if t == nil {
			continue
		}
		if m.Headers == nil {
			m = h.osMessageNotification(p, batch, false)
		}
		n += h.publishLocked(s, t, m)
	}
	return n
}

// bootMessages returns what an operating system writes at its IPL, in the groups in which it comes.
func (p *partition) bootMessages() [][]string {
	if p.zos {
		return [][]string{
			{
				"IEA371I SYS1.IPLPARM ON DEVICE 0A86 SELECTED FOR IPL PARAMETERS", "IEA246I LOAD   ID 00 SELECTED",
				"IEA246I NUCLST ID 00 SELECTED",
			},
			{
				"IEA519I IODF DSN = SYS1.IODF00\n" +
					"IEA520I CONFIGURATION ID = " + p.system + " . IODF DEVICE NUMBER = 0A86",
				"*00 IEA101A SPECIFY SYSTEM PARAMETERS FOR z/OS 02.05.00 HBB77D0",
			},
			{
				"IEE600I REPLY TO 00 IS;SYSP=00",
				"IEE389I MVS COMMAND PROCESSING INITIALIZED", "IEE348I IEASYS00 MEMBER DATA PROCESSED",
				"$HASP493 JES2 ALL MEMBER WARM START IS IN PROGRESS",
			},
			{
				"$HASP492 JES2 " + p.system + " HAS COMPLETED ALL MEMBER WARM START",
				"IST020I VTAM INITIALIZATION COMPLETE FOR " + p.system,
			},
		}
	}
	host := p.name
	return [][]string{
		{
			"[    0.000000] Linux version 5.14.0-427.13.1.el9_4.s390x (mockbuild@s390) #1 SMP\n",
			"[    0.000000] setup: Linux is running natively in 64-bit mode\n",
			"[    0.043210] Kernel command line: root=/dev/disk/by-path/ccw-0.0.0100-part1 rd.zfcp=0.0.1900 audit=0\n",
		},
		{
			"[    0.731188] systemd[1]: Detected virtualization none.\n",
			"[    0.731201] systemd[1]: Detected architecture s390x.\n", " \n",
		},
		{
			"[    1.902114] qeth 0.0.1000: Device is a OSD Express card (level: 0768)",
			"[  OK  ] Mounted /sysroot.\n", "[  OK  ] Reached target Basic System.\n",
		},
		{
			"[  OK  ] Started OpenSSH server daemon.\n[  OK  ] Reached target Multi-User System.\n",
			host + " login: ",
		},
	}
}

// shutdownMessages returns what an operating system writes when it is stopped.
func (p *partition) shutdownMessages() [][]string {
	if p.zos {
		return [][]string{
			{"IEE334I HALT     EOD SUCCESSFUL", "$HASP085 JES2 TERMINATION COMPLETE"},
			{"IEE037I LOG NOT ACTIVE"},
		}
	}
	return [][]string{
		{"[  OK  ] Stopped target Multi-User System.\n", "         Stopping OpenSSH server daemon...\n"},
		{"[  OK  ] Reached target System Power Off.\n", "[ 8123.456789] reboot: System halted\n"},
	}
}

// everydayMessages returns what an operating system writes now and then.
func (w *world) everydayMessages(p *partition) []string {
	n := w.rng.IntN(100000)
	for i := range p.messages {
		if m := &p.messages[i]; m.held { // an operator answers it, sooner or later
			return []string{fmt.Sprintf("IEE600I REPLY TO %02d IS;CANCEL", m.reply)}
		}
	}
	if p.zos {
		all := [...]string{
			fmt.Sprintf("$HASP373 JOB%05d STARTED - INIT 1 - CLASS A - SYS %s", n, p.system),
			fmt.Sprintf("$HASP395 JOB%05d ENDED - RC=0000", n),
			fmt.Sprintf("IEF404I BATCH%02d - ENDED - TIME=12.%02d.%02d", n%100, n%60, (n/60)%60),
			fmt.Sprintf("*%02d IEF238D BATCH%02d - REPLY DEVICE NAME OR 'CANCEL'.", n%100, n%100),
		}
		return all[w.rng.IntN(len(all)):][:1]
	}
	sec, us := n, w.rng.IntN(1000000)
	switch w.rng.IntN(4) {
	case 0:
		return []string{fmt.Sprintf("[%5d.%06d] systemd[1]: Started Session %d of user root.\n", sec, us, n%1000)}
	case 1:
		return []string{
			fmt.Sprintf(
				"[%5d.%06d] TCP: request_sock_TCP: Possible SYN flooding on port 443. Sending cookies.\n", sec, us,
			),
		}
	case 2:
		return []string{
			fmt.Sprintf("[%5d.%06d] EXT4-fs (dasda1): re-mounted. Quota mode: none.", sec, us),
			fmt.Sprintf("[%5d.%06d] audit: backlog limit exceeded", sec, us+1), " \n",
		}
	default:
		return []string{fmt.Sprintf("[%5d.%06d] crond[%d]: (root) CMD (run-parts /etc/cron.hourly)\n", sec, us, n)}
	}
}

// forget deletes the message with a sequence number that the HMC holds, and says whether there was
// one.
func (p *partition) forget(seq int64) bool {
	i := slices.IndexFunc(p.messages, func(m osMessage) bool { return m.seq == seq })
	if i < 0 {
		return false
	}
	p.messages = slices.Delete(p.messages, i, i+1)
	return true
}
