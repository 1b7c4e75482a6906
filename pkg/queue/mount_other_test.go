//go:build !linux

package queue

import (
	"errors"
	"testing"
)

func mountMemory(*testing.T, string, string) error { return errors.ErrUnsupported }
