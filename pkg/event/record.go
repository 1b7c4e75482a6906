package event

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Record is a stored event: its JSON, and in front of it what a delivery needs to know without
// parsing that.
type Record struct {
	ID   string
	Type string
	// Key is what the order is kept by; see Event.Key.
	Key      string
	Received time.Time
	// Stored is when it was stored, or the zero time where it was not. It does not follow the
	// machine's clock when that is set.
	Stored time.Time
	JSON   []byte
}

// recordVersion is the first byte of every stored record.
const recordVersion = 1

var errShortRecord = errors.New("event: record is cut off")

// AppendRecord appends e as it is stored and returns the extended slice.
func AppendRecord(dst []byte, e *Event) []byte {
	dst = append(dst, recordVersion)
	dst = binary.BigEndian.AppendUint64(dst, uint64(e.Received.UnixNano()))
	dst = appendPrefixed(dst, e.ID)
	dst = appendPrefixed(dst, e.Type)
	dst = appendPrefixed(dst, e.Key())
	return e.AppendJSON(dst)
}

func appendPrefixed(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// ParseRecord reads what AppendRecord wrote. JSON shares data's memory.
func ParseRecord(data []byte) (Record, error) {
	var r Record
	if len(data) < 9 {
		return r, errShortRecord
	}
	if data[0] != recordVersion {
		return r, fmt.Errorf("event: record of version %d, this program reads %d", data[0], recordVersion)
	}
	r.Received = time.Unix(0, int64(binary.BigEndian.Uint64(data[1:])))
	data = data[9:]
	// The fields become parts of one string: three small ones would cost three allocations for
	// every event and sink.
	var spans [3]struct{ start, end int }
	at := 0
	for i := range spans {
		n, size := binary.Uvarint(data[at:])
		if size <= 0 || n > uint64(len(data)-at-size) {
			return r, errShortRecord
		}
		spans[i].start = at + size
		at += size + int(n)
		spans[i].end = at
	}
	fields := string(data[:at])
	field := func(i int) string { return fields[spans[i].start:spans[i].end] }
	r.ID, r.Type, r.Key = field(0), field(1), field(2)
	r.JSON = data[at:]
	return r, nil
}

// Event parses the record's JSON.
func (r Record) Event() (*Event, error) {
	e := new(Event)
	if err := json.Unmarshal(r.JSON, e); err != nil {
		return nil, fmt.Errorf("event %s: %w", r.ID, err)
	}
	return e, nil
}

// NewRecord returns e as a record, for what is sent without being stored.
func NewRecord(e *Event) Record {
	return Record{ID: e.ID, Type: e.Type, Key: e.Key(), Received: e.Received, JSON: e.AppendJSON(nil)}
}
