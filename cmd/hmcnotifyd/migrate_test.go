package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/ha"
)

// A signal that comes when all is copied and marked as moved does not make it an interrupted copy.
func TestMigrationIsTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	e := &environment{stdout: &out}
	if err := e.migrated(ctx, ha.Migrated{Events: 1, Sinks: 2, From: "data", To: "stream x"}, nil); err != nil {
		t.Error(err)
	}
	if want := "copied 1 event, the positions of 2 sinks and 0 dead letters from data to stream x\ndata stays, and is marked as moved\n"; out.String() != want {
		t.Errorf("%q", out.String())
	}
	if err := e.migrated(ctx, ha.Migrated{}, errors.New("cut")); err == nil || !strings.HasPrefix(err.Error(), "migrate: interrupted") {
		t.Error(err)
	}
}
