// Package web is the daemon's HTTP side: status page, live events, metrics, health, readiness,
// status, reload and dead letters. Every answer comes from memory: no request to it causes one to
// an HMC.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// Build is the version of the program that runs.
type Build struct {
	Version   string `json:"version"`
	Revision  string `json:"revision"`
	GoVersion string `json:"goversion"`
}

// ConfigStatus is the result of the last reading of the configuration file.
type ConfigStatus struct {
	File                 string    `json:"file"`
	LastReloadSuccessful bool      `json:"last_reload_successful"`
	LastReload           time.Time `json:"last_reload"`
	Hash                 float64   `json:"hash"`
	Error                string    `json:"error,omitempty"`
}

// troubles says what is wrong with the file, and what to do.
func (c ConfigStatus) troubles() []status.Trouble {
	if c.LastReloadSuccessful || c.Error == "" {
		return nil
	}
	return []status.Trouble{{
		Severity: event.SeverityWarning,
		What:     "The configuration file has a mistake, and what ran before goes on: " + c.Error,
		Do:       "Correct it, try it and reload.", Command: "hmcnotifyd check-config " + c.File,
		Runbook: "HmcnotifydConfigReloadFailed",
	}}
}

// Options are what the handler shows and does.
type Options struct {
	Status func() status.Status
	Config func() ConfigStatus
	// reads the configuration file again and makes it the running one
	Reload func() error
	// Bridge serves /api/v1/dead-letters, or says why it does not; nil: those paths are not
	// there.
	Bridge func() (*bridge.Bridge, error)
	// Live serves /api/v1/events; nil: that path is not there.
	Live func() (LiveReader, error)
	// Units are the CPCs and partitions that the page shows; nil: it shows none.
	Units func() []status.Unit
	// SendTest serves /api/v1/sinks/NAME/test, as bridge.Bridge does; nil: that path is not
	// there.
	SendTest func(ctx context.Context, sink string, report func(deliver.TestStep) error) error
	Gatherer prometheus.Gatherer
	// Registerer takes the handler's own metrics; nil: none.
	Registerer prometheus.Registerer
	Build      Build
	// EnableAdminAPI lets whoever reaches the port change something; else only the machine
	// itself does, and those whom a Protection knows.
	EnableAdminAPI bool
	// EnablePprof serves /debug/pprof/ to those who may change something.
	EnablePprof bool
	// nil: none
	Logger *zap.Logger
}

type handler struct {
	Options
	template  *template.Template
	heartBeat time.Duration
	desk      *desk
	now       *shared[status.Status]
	reloading *shared[error]
	changes   *pace
}

// NewHandler returns the handler of every path the daemon serves.
func NewHandler(opts Options) http.Handler {
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	h := handler{
		Options: opts, template: newTemplate(), heartBeat: HeartBeat, desk: newDesk(),
		now: new(shared[status.Status]), reloading: new(shared[error]), changes: new(pace),
	}
	mux := http.NewServeMux()
	large := func(pattern string, serve http.Handler) { mux.Handle(pattern, h.desk.serving(serve)) }
	large("GET /{$}", http.HandlerFunc(h.landing))
	gather := prometheus.GathererFunc(sharing(opts.Gatherer.Gather))
	large("GET /metrics", promhttp.HandlerFor(gather, promhttp.HandlerOpts{
		Registry: opts.Registerer, ErrorLog: scrapes{opts.Logger}, EnableOpenMetrics: true,
	}))
	mux.HandleFunc("GET /-/healthy", h.healthy)
	mux.HandleFunc("GET /-/ready", h.ready)
	reload := h.sameSite(h.paced(new(pace), h.reload))
	mux.HandleFunc("POST /-/reload", reload)
	mux.HandleFunc("PUT /-/reload", reload)
	large("GET /api/v1/status", http.HandlerFunc(h.status))
	h.assets(mux)
	if h.Live != nil {
		mux.HandleFunc("GET /api/v1/events", h.sameSite(h.failing(h.liveEvents)))
	}
	if h.Bridge != nil {
		h.deadLetters(mux)
		mux.HandleFunc("POST /api/v1/sinks/{name}/replay", h.changing(h.failing(h.replay)))
	}
	if h.SendTest != nil {
		mux.HandleFunc("POST /api/v1/sinks/{name}/test", h.changing(h.failing(h.sendTest)))
	}
	if h.EnablePprof {
		mux.HandleFunc("GET /debug/pprof/", h.trusted(pprof.Index)) // and the profiles, by name
		mux.HandleFunc("GET /debug/pprof/profile", h.trusted(pprof.Profile))
		mux.HandleFunc("GET /debug/pprof/trace", h.trusted(pprof.Trace))
	}
	return http.MaxBytesHandler(secured(h.ownHost(mux)), MaxBody)
}

// secured sets the headers that keep a browser from being used against the page.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", policy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		next.ServeHTTP(w, r)
	})
}

func (h handler) healthy(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("hmcnotifyd is healthy.\n"))
}

// role is whether the daemon leads: see status.Status.
type role struct {
	Role string `json:"role"`
}

// ready answers 200 and the role when every link is up and subscribed, no sink is stuck and storage
// is writable; else 503 with the reasons as a JSON list, each with the role.
func (h handler) ready(w http.ResponseWriter, _ *http.Request) {
	now := h.now.get(h.Status)
	is := role{now.Role}
	if now.Ready {
		h.json(w, http.StatusOK, is)
		return
	}
	type reason struct {
		status.Reason
		role
	}
	list := make([]reason, len(now.Reasons))
	for i, r := range now.Reasons {
		list[i] = reason{r, is}
	}
	h.json(w, http.StatusServiceUnavailable, list)
}

func (h handler) status(w http.ResponseWriter, _ *http.Request) {
	is, config := h.now.get(h.Status), h.Config()
	is.Troubles = append(slices.Clip(is.Troubles), config.troubles()...) // which others have too
	h.json(w, http.StatusOK, struct {
		Build
		Now    time.Time    `json:"now"`
		Config ConfigStatus `json:"config"`
		status.Status
	}{h.Build, time.Now().UTC(), config, is})
}

// reload makes the file the running configuration. Those who ask while one is under way share the
// next one.
func (h handler) reload(w http.ResponseWriter, _ *http.Request) {
	if err := h.reloading.get(h.Reload); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// answering makes a handler of a function that returns what to answer with.
func (h handler) answering(get func(*http.Request) (any, error)) http.HandlerFunc {
	return h.failing(func(w http.ResponseWriter, r *http.Request) error {
		v, err := get(r)
		if err == nil {
			h.json(w, http.StatusOK, v)
		}
		return err
	})
}

// failing makes a handler of a function that answers unless it fails.
func (h handler) failing(serve func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := serve(w, r)
		if err == nil {
			return
		}
		code := codeOf(err)
		switch code {
		case http.StatusServiceUnavailable:
			w.Header().Set("Retry-After", "5")
		case http.StatusTooManyRequests:
			w.Header().Set("Retry-After", "1")
		}
		h.json(w, code, Error{err.Error()})
	}
}

// codeOf returns the status of the answer to a request that failed.
func codeOf(err error) int {
	for code, causes := range map[int][]error{
		http.StatusForbidden:          {errOtherSite, errNoAdmin},
		http.StatusMisdirectedRequest: {errOtherHost},
		http.StatusTooManyRequests:    {errTooFast},
		http.StatusNotFound: {
			replay.ErrNoSuchLetter, replay.ErrNoSuchSink, bridge.ErrUnknownHMC, replay.ErrNothing,
		},
		http.StatusConflict: {
			replay.ErrConfigured, replay.ErrReplaying, bridge.ErrNotTested, bridge.ErrNotGone, replay.ErrPresent,
		},
		http.StatusServiceUnavailable: {replay.ErrTooManyReaders, replay.ErrLiveEnded, bridge.ErrStandby},
	} {
		if slices.ContainsFunc(causes, func(cause error) bool { return errors.Is(err, cause) }) {
			return code
		}
	}
	if _, ok := errors.AsType[badRequest](err); ok {
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

func (h handler) json(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	enc := json.NewEncoder(event.EscapingWriter{Writer: w})
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		h.Logger.Debug("an answer could not be written", zap.Error(err))
	}
}

// scrapes logs what goes wrong with answers to /metrics.
type scrapes struct{ *zap.Logger }

// Println implements promhttp.Logger.
func (l scrapes) Println(v ...any) {
	l.Warn("metrics could not be answered with", zap.String("problem", strings.TrimSpace(fmt.Sprintln(v...))))
}
