package translate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// notOperating is the status of an LPAR all of whose processors have stopped.
const notOperating = "not-operating"

// waitStates says what the wait state codes of z/OS mean that every shop knows; docs/wait-states.md
// has them with the source.
var waitStates = map[uint64]string{
	0x030: "a task ended abnormally while the nucleus was initialized",
	0x040: "a task ended abnormally while the nucleus was initialized",
	0x055: "the IPL did not find what it needs in SYS1.NUCLEUS",
	0x064: "an error was found while the nucleus was initialized",
	0x08a: "a wait state that a program asked for could not be loaded",
	0x0a2: "XCF: the system was removed from its sysplex, or cannot go on in it",
	0x0b1: "a problem in LOADxx, the I/O definition file, or a device that the IPL needs",
	0x202: "the address space for the consoles could not be initialized",
}

// The bits of the first word of a program status word, and how much of the last one is the wait
// state and its reason.
const (
	pswMasks    = 0x03000000 // I/O and external interruptions are taken
	pswWait     = 0x00020000
	pswExtended = 0x00000001 // an address of 64 bits: the form of z/OS has none
	waitCode    = 0xfff
	waitReason  = 0xffff
)

// Stopped adds to the event of an LPAR that has stopped, and still has, why it has, by the program
// status words of its processors, and reports whether they tell. One that was activated and waits
// by a code does so because it could not be started, which nobody has planned.
func (c *Converter) Stopped(e *event.Event, psws []string) bool {
	text, coded := disabledWait(psws)
	if text == "" || e.Type != event.TypeStatusChange || e.Resource == nil {
		return false
	}
	known, _ := c.estate.Lookup(e.Resource.ObjectURI)
	if known.Status != notOperating {
		return false
	}
	e.Summary = event.OneLine(e.Summary + "; " + text)
	e.Planned = e.Planned && !coded // whatever was wanted, not this
	if coded && !known.Starting.IsZero() {
		c.setStarting(&known, time.Time{})
		e.Severity = event.Worse(e.Severity, c.Severities.OfStatus(known.Class, known.Status, known.Judged))
	}
	return true
}

// disabledWait says in words that processors are in a disabled wait, a wait that no interruption
// ends, by their program status words (32 hexadecimal digits each), and why, where the form is that
// of z/OS: 00020000 x0000000 00000000 0rrrrwww with the wait state code and its reason (IBM, z/OS
// MVS System Codes). "": none is. coded says that some tell why.
func disabledWait(psws []string) (text string, coded bool) {
	waiting := 0
	var why []string
	for _, psw := range psws {
		text, ok := waitOf(psw)
		if !ok {
			continue
		}
		waiting++
		if text != "" && !slices.Contains(why, text) {
			why = append(why, text)
		}
	}
	if waiting == 0 {
		return "", false
	}
	who := fmt.Sprintf("%d of %d processors in a disabled wait", waiting, len(psws))
	if waiting == len(psws) {
		who = "all processors in a disabled wait"
	}
	if len(why) == 0 {
		return who, false
	}
	return who + ": " + strings.Join(why[:min(len(why), 2)], "; "), true
}

// waitOf says why a processor waits; "": that is not told. ok is false where it does not wait, or
// not for ever.
func waitOf(psw string) (why string, ok bool) {
	if len(psw) != 32 {
		return "", false
	}
	var words [4]uint64
	for i := range words {
		word, err := strconv.ParseUint(psw[8*i:8*i+8], 16, 32)
		if err != nil {
			return "", false
		}
		words[i] = word
	}
	if words[0]&pswWait == 0 || words[0]&pswMasks != 0 {
		return "", false
	}
	if words[0]&pswExtended != 0 || words[2] != 0 || words[3]>>28 != 0 {
		return "PSW " + psw[:8] + " " + psw[8:16] + " " + psw[16:24] + " " + psw[24:], true
	}
	code, reason := words[3]&waitCode, words[3]>>12&waitReason
	if code == 0 {
		return "", true
	}
	why = fmt.Sprintf("%03X", code)
	if reason != 0 {
		why += fmt.Sprintf(", reason %04X", reason)
	}
	if meaning := waitStates[code]; meaning != "" {
		why += ": " + meaning
	}
	return why, true
}
