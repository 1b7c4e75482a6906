package appendlog

import (
	"bufio"
	"bytes"
	"errors"
	"hash/crc32"
	"io"
)

// Group is what one Append has stored.
type Group struct {
	Frames []ScannedFrame
	// What was said of it; nil if that is damaged.
	Say []byte
	// Where it begins and ends.
	Start, End int64
	// Something in it, or in front of it, is damaged.
	Damaged bool
	// Nothing says that it was ever complete on disk: it may have been cut off by a loss of
	// power.
	Unsure bool
}

// ScannedFrame is a frame of a file.
type ScannedFrame struct {
	Frame
	// Nil if it is not wanted.
	Payload []byte
}

// Scanned is what Scan has found besides groups.
type Scanned struct {
	// Where the last group begins and ends. What is behind it was never complete, or is damaged.
	Last, End int64
	// Whether the file was ended, and what was said then.
	Ended bool
	Say   []byte
	// Something behind the last group that was ended is not as it was written.
	Rest bool
}

// ErrCut is what the fn of Scan returns for a group that is unsure and damaged: it does not count.
var ErrCut = errors.New("appendlog: the last group is not whole")

// Scan reads a whole file, of so many bytes, and calls fn for its groups. It keeps the payloads of
// the kinds that are wanted, a group at a time. The error is that of fn.
func Scan(
	file io.ReaderAt, size int64, want func(kind uint8) bool, fn func(g *Group) error,
) (found Scanned, err error) {
	s := scanner{file: file, size: size, buffer: bufio.NewReaderSize(nil, 4*bufferSize)}
	s.reset(0)
	var last *Group // whose fate depends on what follows
	deliver := func() (err error) {
		if last == nil {
			return nil
		}
		g := last
		if last, err = nil, fn(g); errors.Is(err, ErrCut) && g.Unsure {
			found.Rest = true
			return nil
		}
		found.Last, found.End = g.Start, g.End
		return err
	}
	now := &Group{}
	for {
		f, ok := s.next(want)
		now.Damaged = now.Damaged || s.damaged
		if last != nil && (ok || s.damaged) {
			last.Unsure = false // the next one was begun when it was complete
		}
		if !ok {
			break
		}
		if f.Kind != kindCommit && f.Kind != kindEnd {
			now.Frames = append(now.Frames, f)
			continue
		}
		if start := int64(f.Numbers[0]); start > now.Start && start <= f.Offset {
			// What ended a group in front of this one is damaged.
			before := &Group{Start: now.Start, End: start, Damaged: true}
			for len(now.Frames) > 0 && now.Frames[0].Offset < start {
				before.Frames, now.Frames = append(before.Frames, now.Frames[0]), now.Frames[1:]
			}
			if err := deliver(); err != nil {
				return found, err
			}
			last, now.Damaged, now.Start = before, now.Damaged && s.damagedAt > start, start
		}
		if err := deliver(); err != nil {
			return found, err
		}
		if f.Kind == kindEnd {
			if n := len(f.Payload) - 8; n >= 0 {
				found.Say = f.Payload[:n]
			}
			found.Ended = true
			if len(now.Frames) > 0 || now.Damaged {
				now.End = f.Offset
				last = now
				if err := deliver(); err != nil {
					return found, err
				}
			}
			now = &Group{Start: f.End()}
			continue
		}
		now.Say, now.End = f.Payload, f.End()
		if now.Say == nil {
			now.Say = []byte{}
		}
		now.Unsure = f.Numbers[1] == 1
		last, now = now, &Group{Start: f.End()}
	}
	err = deliver()
	found.Rest = found.Rest || !found.Ended && (len(now.Frames) > 0 || now.Damaged)
	return found, err
}

// scanner finds frames one after the other.
type scanner struct {
	file   io.ReaderAt
	size   int64
	buffer *bufio.Reader
	at     int64
	// Something was passed over in front of the last frame, and where that ended.
	damaged   bool
	damagedAt int64
	// Only zeros were passed over: at the end of the file they are room for more.
	zeros bool
}

func (s *scanner) reset(at int64) {
	s.at = min(at, s.size)
	s.buffer.Reset(io.NewSectionReader(s.file, s.at, s.size-s.at))
}

func (s *scanner) skip(n int) {
	w, _ := s.buffer.Peek(n)
	s.zeros = s.zeros && len(bytes.TrimLeft(w, "\x00")) == 0
	s.damaged = true
	n, _ = s.buffer.Discard(n)
	s.at += int64(n)
	s.damagedAt = s.at
}

// next returns the next frame; there is none at the end of the file.
func (s *scanner) next(want func(kind uint8) bool) (f ScannedFrame, ok bool) {
	s.damaged, s.zeros = false, true
	for s.at < s.size {
		h, err := s.buffer.Peek(HeaderSize)
		if len(h) < HeaderSize {
			s.unreadable(h, err)
			continue
		}
		if f.Frame, ok = header(h, s.size-s.at); ok {
			if f.Payload, ok = s.check(&f.Frame, want); ok {
				f.Offset = s.at
				s.at = f.End()
				return f, true
			}
			// What it says of its length may be wrong.
			s.damaged, s.zeros, s.damagedAt = true, false, s.at+1
			s.reset(s.at + 1)
			continue
		}
		w, _ := s.buffer.Peek(min(s.buffer.Size(), max(s.buffer.Buffered(), HeaderSize)))
		s.skip(nextHeader(w))
	}
	s.damaged = s.damaged && !s.zeros
	return f, false
}

// unreadable passes over a place that cannot be read, or over the end of the file.
func (s *scanner) unreadable(h []byte, err error) {
	s.damaged = true
	if errors.Is(err, io.EOF) || s.size-s.at < HeaderSize {
		s.zeros = s.zeros && len(bytes.TrimLeft(h, "\x00")) == 0
		s.at = s.size
	} else {
		const page = 4096
		s.zeros = false
		s.reset((s.at + int64(len(h)) + page) / page * page)
	}
	s.damagedAt = s.at
}

// check reads a frame and compares its checksum.
func (s *scanner) check(f *Frame, want func(kind uint8) bool) (payload []byte, ok bool) {
	n := HeaderSize + f.Length
	keep := f.Kind >= kindCommit || want(f.Kind)
	if n <= s.buffer.Size() {
		b, _ := s.buffer.Peek(n)
		if len(b) < n || crc32.Checksum(b[4:], castagnoli) != big.Uint32(b) {
			return nil, false
		}
		if keep {
			payload = bytes.Clone(b[HeaderSize:])
		}
		_, _ = s.buffer.Discard(n)
		return payload, true
	}
	var h [HeaderSize]byte
	if _, err := io.ReadFull(s.buffer, h[:]); err != nil {
		return nil, false
	}
	sum := crc32.Checksum(h[4:], castagnoli)
	var to bytes.Buffer
	for left := int64(f.Length); left > 0; {
		piece, _ := s.buffer.Peek(int(min(left, bufferSize)))
		if len(piece) == 0 {
			return nil, false
		}
		sum = crc32.Update(sum, castagnoli, piece)
		if keep {
			to.Write(piece)
		}
		left -= int64(len(piece))
		_, _ = s.buffer.Discard(len(piece))
	}
	return to.Bytes(), sum == big.Uint32(h[:])
}

// ReadEnd returns what was said when a file of so many bytes was ended, and where that begins.
func ReadEnd(file io.ReaderAt, size int64) (say []byte, at int64, ok bool) {
	var b [8]byte
	if _, err := file.ReadAt(b[:], max(0, size-8)); err != nil || size < HeaderSize+8 {
		return nil, 0, false
	}
	at = int64(big.Uint64(b[:]))
	if at <= 0 || at > size-HeaderSize-8 || size-at > maxPayload {
		return nil, 0, false
	}
	frame := make([]byte, size-at)
	if _, err := file.ReadAt(frame, at); err != nil {
		return nil, 0, false
	}
	f, ok := Parse(frame)
	if !ok || f.Kind != kindEnd || f.End() != int64(len(frame)) {
		return nil, 0, false
	}
	return frame[HeaderSize : len(frame)-8], at, true
}
