package diskstore

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type nobody struct{}

func (nobody) Available(int64) {}
func (nobody) Damaged()        {}

// Each bit of what a segment says of itself is checked.
func TestInfoIsChecked(t *testing.T) {
	t.Parallel()
	info, sum := segmentInfo{base: 7, previousBase: 3, previousLast: 6}.encode(), appendlog.AppendCRC((&storage.Segment{Last: 9, Bytes: 100}).Encode())
	if got, err := decodeInfo(info); err != nil || got.base != 7 || string(got.metaValue(sum)) != string((&storage.Segment{Last: 9, Bytes: 100}).Encode()) {
		t.Fatal(got, err)
	}
	for i := range 8 * len(info) {
		harmed := bytes.Clone(info)
		harmed[i/8] ^= 1 << (i % 8)
		if got, err := decodeInfo(harmed); err == nil || errors.Is(err, errVersion) {
			t.Errorf("bit %d: %+v, %v", i, got, err)
		}
	}
	for i := range 8 * len(sum) {
		harmed := bytes.Clone(sum)
		harmed[i/8] ^= 1 << (i % 8)
		if got := (segmentInfo{version: segmentVersion}).metaValue(harmed); got != nil {
			t.Errorf("bit %d of the summary: %x", i, got)
		}
	}
}

// TestNewerVersion refuses what a newer version of the program has written, and leaves it as it is.
func TestNewerVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, segmentName(1))
	head := append(make([]byte, appendlog.HeaderSize), appendlog.AppendCRC([]byte{segmentVersion + 1, 0})...)
	appendlog.Seal(head, storage.KindHead, 1, [4]uint64{1})
	log, err := appendlog.Create(datadir.Disk, file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(log.Append(nil, [][]byte{head}), log.Place(), log.Close()); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{Dir: dir, Logger: zaptest.NewLogger(t), Metrics: nobody{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); !errors.Is(err, errVersion) {
		t.Errorf("it is loaded: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := filepath.Glob(filepath.Join(dir, segmentPrefix+"*"+segmentSuffix+"*")); err != nil || len(got) != 1 || got[0] != file {
		t.Errorf("files: %q, %v", got, err)
	}
}
