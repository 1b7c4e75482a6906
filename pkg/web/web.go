// Package web is the daemon's HTTP side: landing page, metrics, health, readiness, status, reload and dead letters.
// Every answer comes from memory: no request to it causes one to an HMC.
package web

import (
	"encoding/json"
	"html/template"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
)

// Build says which program is running.
type Build struct {
	Version   string `json:"version"`
	Revision  string `json:"revision"`
	GoVersion string `json:"goversion"`
}

// ConfigStatus says what became of the last reading of the configuration file.
type ConfigStatus struct {
	File                 string    `json:"file"`
	LastReloadSuccessful bool      `json:"last_reload_successful"`
	LastReload           time.Time `json:"last_reload"`
	Hash                 float64   `json:"hash"`
	Error                string    `json:"error,omitempty"`
}

// Options are what the handler shows and does.
type Options struct {
	Status func() bridge.Status
	Config func() ConfigStatus
	Reload func() error // reads the configuration file again and makes it the running one
	// DeadLetters serves /api/v1/dead-letters; nil: those paths are not there.
	DeadLetters DeadLetters
	Gatherer    prometheus.Gatherer
	// Registerer takes the handler's own metrics; nil: none.
	Registerer prometheus.Registerer
	Build      Build
	Logger     *zap.Logger // nil: none
}

type handler struct {
	Options
}

// NewHandler returns the handler of every path the daemon serves.
func NewHandler(opts Options) http.Handler {
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	h := handler{Options: opts}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", h.landing)
	mux.Handle("GET /metrics", promhttp.HandlerFor(opts.Gatherer, promhttp.HandlerOpts{
		Registry: opts.Registerer, ErrorLog: zap.NewStdLog(opts.Logger.Named("metrics")), EnableOpenMetrics: true,
	}))
	mux.HandleFunc("GET /-/healthy", h.healthy)
	mux.HandleFunc("GET /-/ready", h.ready)
	mux.HandleFunc("POST /-/reload", h.reload)
	mux.HandleFunc("PUT /-/reload", h.reload)
	mux.HandleFunc("GET /api/v1/status", h.status)
	if h.DeadLetters != nil {
		h.deadLetters(mux)
	}
	return secured(h.sameOrigin(mux))
}

// secured sets the headers that keep a browser from being used against the page.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		next.ServeHTTP(w, r)
	})
}

func (h handler) healthy(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("hmcnotifyd is healthy.\n"))
}

// ready answers 200 when every link is up and subscribed, no sink is stuck and storage is writable; else 503 with
// the reasons as a JSON list.
func (h handler) ready(w http.ResponseWriter, _ *http.Request) {
	status := h.Status()
	code := http.StatusOK
	if !status.Ready {
		code = http.StatusServiceUnavailable
	}
	h.json(w, code, status.Reasons)
}

func (h handler) status(w http.ResponseWriter, _ *http.Request) {
	h.json(w, http.StatusOK, struct {
		Build
		Now    time.Time    `json:"now"`
		Config ConfigStatus `json:"config"`
		bridge.Status
	}{h.Build, time.Now().UTC(), h.Config(), h.Status()})
}

func (h handler) reload(w http.ResponseWriter, _ *http.Request) {
	if err := h.Reload(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (h handler) json(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		h.Logger.Debug("an answer could not be written", zap.Error(err))
	}
}

func (h handler) landing(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	err := landingPage.Execute(w, struct {
		Build
		bridge.Status
	}{h.Build, h.Status()})
	if err != nil {
		h.Logger.Debug("the page could not be written", zap.Error(err))
	}
}

var landingPage = template.Must(template.New("landing").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>hmcnotifyd</title>
<style>
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; vertical-align: top; border-bottom: 1px solid #8886; }
</style>
</head>
<body>
<h1>hmcnotifyd</h1>
<p>Version {{.Version}}{{with .Revision}} ({{.}}){{end}}. {{if .Ready}}Ready: every link is up, every sink accepts events.{{else}}<strong>Not ready.</strong>{{end}}</p>
{{with .Reasons}}<ul>{{range .}}<li>{{with .HMC}}HMC {{.}}: {{end}}{{with .Sink}}sink {{.}}: {{end}}{{.Reason}}</li>{{end}}</ul>{{end}}
<h2>HMCs</h2>
<table>
<tr><th>HMC</th><th>State</th><th>Since</th><th>Host</th><th>Topics</th><th>Reconnects</th></tr>
{{range .HMCs}}<tr><td>{{.Name}}</td><td>{{.State}}</td><td>{{.Since.Format "2006-01-02 15:04:05 MST"}}</td><td>{{.Host}}</td><td>{{len .Topics}}</td><td>{{.Reconnects}}</td></tr>
{{end}}</table>
<h2>Sinks</h2>
<table>
<tr><th>Sink</th><th>Kind</th><th>Waiting events</th><th>Last error</th></tr>
{{range .Sinks}}<tr><td>{{.Name}}</td><td>{{.Kind}}</td><td>{{.QueueEvents}}</td><td>{{if .FailingSince}}{{.LastError}}{{end}}</td></tr>
{{end}}</table>
<p><a href="/metrics">Metrics</a> · <a href="/api/v1/status">Status (JSON)</a> · <a href="/-/ready">Ready</a> · <a href="/-/healthy">Healthy</a></p>
</body>
</html>
`))
