//go:build !linux

package chaos

import "errors"

type disk struct{}

func mountDisk(string) (*disk, error) { return nil, errors.New("only on Linux") }

func (*disk) unmount() error { return nil }

func (*disk) fill() (func() error, error) { return nil, errors.New("only on Linux") }
