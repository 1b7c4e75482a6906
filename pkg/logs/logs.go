// Package logs makes the program's logger: lines of JSON or for people, with the priorities that
// the journal of systemd takes, and bounded where somebody else causes them.
package logs

import (
	"io"
	"log/slog"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
	"go.uber.org/zap/zapcore"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// New makes a logger to w, of a level (debug, info, warn, error) and above, in a format: json or
// console.
func New(w io.Writer, level, format string) (*zap.Logger, error) {
	least, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, err
	}
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	enc.EncodeDuration = func(d time.Duration, out zapcore.PrimitiveArrayEncoder) { out.AppendString(rounded(d)) }
	encoder := zapcore.NewJSONEncoder(enc)
	if format == "console" {
		enc.EncodeTime = zapcore.TimeEncoderOfLayout("2006-01-02T15:04:05.000Z07:00")
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(enc)
	}
	if toJournal(w) {
		encoder = journalEncoder{encoder}
	}
	// Whatever an HMC or a sink has said, a line misleads nobody.
	out := zapcore.Lock(zapcore.AddSync(event.EscapingWriter{Writer: w}))
	return zap.New(newThrottled(zapcore.NewCore(encoder, out, least))), nil
}

// Slog is a logger as one of the standard library, for our packages that any Go program may use.
func Slog(log *zap.Logger) *slog.Logger {
	return slog.New(zapslog.NewHandler(log.Core(), zapslog.WithName(log.Name())))
}

// rounded writes a duration with at most three digits that say something, or in whole seconds.
func rounded(d time.Duration) string {
	if d.Abs() >= time.Minute {
		return d.Round(time.Second).String()
	}
	const digit, most = 10, 1000
	unit := time.Nanosecond
	for (d / unit).Abs() >= most {
		unit *= digit
	}
	return d.Round(unit).String()
}
