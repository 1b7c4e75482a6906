package hmcsim

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/go-stomp/stomp/v3/frame"
)

func readAll(version, wire string) (frames []*frame.Frame, err error) {
	r := newFrameReader(bufio.NewReaderSize(strings.NewReader(wire), maxHeaderLine+1024))
	for {
		f, err := r.read(version)
		if err != nil {
			return frames, err
		}
		if f != nil {
			frames = append(frames, f)
		}
	}
}

func TestReadFrames(t *testing.T) {
	frames, err := readAll(version12, "\n\r\nSUBSCRIBE\r\nid:a\\cb\\\\c\\nd\r\nid:second\nno header\n:neither\nempty:\n\nbody\x00\n\n"+
		"SEND\ncontent-length:3\n\na\x00b\x00FOO\nx: y \n\n\x00")
	if !errors.Is(err, io.EOF) || len(frames) != 3 {
		t.Fatalf("%d frames, %v", len(frames), err)
	}
	if f := frames[0]; f.Command != "SUBSCRIBE" || f.Header.Get("id") != "a:b\\c\nd" || f.Header.Len() != 3 || string(f.Body) != "body" {
		t.Errorf("%v %q", f.Header, f.Body)
	}
	if f := frames[1]; string(f.Body) != "a\x00b" {
		t.Errorf("%q", f.Body)
	}
	if f := frames[2]; f.Command != "FOO" || f.Header.Get("x") != " y " {
		t.Errorf("%s %v", f.Command, f.Header)
	}
	// Neither CONNECT nor STOMP 1.0 has escapes.
	for _, test := range []struct{ version, command string }{{version12, "CONNECT"}, {version12, "STOMP"}, {"", "CONNECT"}, {version10, "SUBSCRIBE"}} {
		frames, _ := readAll(test.version, test.command+"\nx:a\\cb\\\\c\\\n\n\x00")
		if len(frames) != 1 || frames[0].Header.Get("x") != `a\cb\\c\` {
			t.Errorf("%v: %v", test, frames)
		}
	}
}

func TestHeartBeatHeader(t *testing.T) {
	if a, b, err := heartBeat(" 12, 34 "); a != 12 || b != 34 || err != nil {
		t.Errorf("%d, %d, %v", a, b, err)
	}
	for _, s := range []string{"x", "1", "1,x", "x,1", "-1,1", "1,-1"} {
		if _, _, err := heartBeat(s); err == nil {
			t.Errorf("%q", s)
		}
	}
}

// FuzzReadFrame: whatever a client sends, reading it ends, and what is read can be written and read again.
func FuzzReadFrame(f *testing.F) {
	f.Add("CONNECT\naccept-version:1.1\npasscode:a\\cb\n\n\x00\n", true)
	f.Add("SUBSCRIBE\nid:a\\cb\n\n\x00", false)
	f.Add("SEND\ncontent-length:3\n\na\x00b\x00", false)
	f.Add("\r\n\x00", false)
	f.Fuzz(func(t *testing.T, wire string, old bool) {
		version := version12
		if old {
			version = version10
		}
		frames, err := readAll(version, wire)
		if err == nil {
			t.Fatal("no end")
		}
		for _, fr := range frames {
			if fr.Header.Get("content-length") != "" || bytes.IndexByte(fr.Body, 0) >= 0 || fr.Command == "CONNECT" || fr.Command == "STOMP" {
				continue
			}
			var headers []Header
			for i := range fr.Header.Len() {
				name, value := fr.Header.GetAt(i)
				if strings.ContainsAny(name, ":\\\n\r") || strings.HasSuffix(value, "\r") {
					return // names are not escaped, and an HMC's have nothing to escape
				}
				headers = append(headers, Header{name, value})
			}
			p := appendFrame(nil, fr.Command, headers, fr.Body, !old)
			again, _ := readAll(version, string(p))
			if strings.HasSuffix(fr.Command, "\r") || fr.Command == "" {
				continue
			}
			if len(again) != 1 || again[0].Header.Len() != len(headers) || !bytes.Equal(again[0].Body, fr.Body) {
				t.Fatalf("%q: %q, %v", wire, p, again)
			}
			for i, h := range headers {
				if name, value := again[0].Header.GetAt(i); name != h.Name || value != h.Value {
					t.Fatalf("%q: %q is %q", wire, h, value)
				}
			}
		}
	})
}
