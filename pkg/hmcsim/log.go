package hmcsim

import (
	"io"
	"log" //nolint:depguard // net/http takes nothing else

	"go.uber.org/zap"
)

// ErrorLog turns what net/http complains about (clients that do not like the certificate) into
// debug lines.
func ErrorLog(logger *zap.Logger) *log.Logger {
	l, err := zap.NewStdLogAt(logger.Named("rest"), zap.DebugLevel)
	if err != nil {
		return log.New(io.Discard, "", 0)
	}
	return l
}
