package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

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
	info, _ := debug.ReadBuildInfo() // nil where there is none
	return web.Build{Version: version, Revision: revisionOf(revision, info), GoVersion: runtime.Version()}
}

// revisionOf returns the revision that the linker was given or else, after a plain go build, the
// one that Go has recorded: as short as the linker's, and with a suffix where files were changed.
func revisionOf(linked string, info *debug.BuildInfo) string {
	if linked != "" || info == nil {
		return linked
	}
	var commit, suffix string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			suffix = "-modified"
		}
	}
	if commit == "" {
		return ""
	}
	return commit[:min(len(commit), 12)] + suffix
}

func (e *environment) version(context.Context) error {
	_, err := io.WriteString(e.stdout, versionText())
	return err
}

// versionText is what the command version and the flag --version print.
func versionText() string {
	var text strings.Builder
	b := build()
	fmt.Fprintf(&text, "hmcnotifyd %s\n  revision: %s\n  go: %s %s/%s\n",
		b.Version, cmp.Or(b.Revision, "none"), b.GoVersion, runtime.GOOS, runtime.GOARCH)
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return text.String()
	}
	for _, dep := range info.Deps {
		if slices.Contains(shownLibraries, dep.Path) {
			fmt.Fprintf(&text, "  %s: %s\n", dep.Path, dep.Version)
		}
	}
	return text.String()
}
