package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

// Set by the linker; see the Makefile.
var (
	version  = "0.0.0-dev"
	revision = ""
)

// shownLibraries are the modules whose version matters when a problem is reported.
var shownLibraries = []string{
	"github.com/go-stomp/stomp/v3", "github.com/prometheus/client_golang", "go.etcd.io/bbolt", "go.uber.org/zap",
}

func build() web.Build {
	return web.Build{Version: version, Revision: revision, GoVersion: runtime.Version()}
}

func versionCommand(app *kingpin.Application) string {
	return app.Command("version", "Print the version of the program, of Go and of the libraries.").FullCommand()
}

func (e *environment) version(context.Context) error {
	fmt.Fprintf(e.stdout, "hmcnotifyd %s\n  revision: %s\n  go: %s %s/%s\n", version, orNone(revision), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	for _, dep := range info.Deps {
		if slices.Contains(shownLibraries, dep.Path) {
			fmt.Fprintf(e.stdout, "  %s: %s\n", dep.Path, dep.Version)
		}
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
