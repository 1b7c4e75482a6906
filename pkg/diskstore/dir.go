package diskstore

import (
	"fmt"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

const (
	cursorsName     = "cursors"
	probeName       = "probe"
	segmentPrefix   = "segment-"
	segmentSuffix   = ".log"
	temporarySuffix = ".tmp"
)

// setAside renames a damaged file, for whoever wants to look at it, and reports the damage unless
// that is nil.
func (d *Store) setAside(path string, damage error) error {
	if damage != nil {
		d.damaged(damage)
	}
	target, err := datadir.SetAside(path)
	if target != "" {
		d.log.Warn("damaged file was set aside", zap.String("file", target))
	}
	return err
}

// segmentName carries the sequence number of the segment's first record, so that what a damaged
// segment held is known without opening it.
func segmentName(base uint64) string {
	return fmt.Sprintf("%s%020d%s", segmentPrefix, base, segmentSuffix)
}

func parseSegmentName(name string) (base uint64, ok bool) {
	digits := strings.TrimSuffix(strings.TrimPrefix(name, segmentPrefix), segmentSuffix)
	base, err := strconv.ParseUint(digits, 10, 64)
	return base, err == nil && base > 0 && name == segmentName(base)
}

// parseAsideName returns the first record of a segment that was set aside, 0 if the name is not
// that of one.
func parseAsideName(name string) (base uint64) {
	name, _, ok := strings.Cut(name, datadir.DamagedSuffix)
	if !ok || strings.HasPrefix(name, barrier) {
		return 0
	}
	name = strings.TrimSuffix(strings.TrimSuffix(name, oldSuffix), segmentSuffix) + segmentSuffix
	if base, ok = parseSegmentName(name); !ok {
		return 0
	}
	return base
}
