package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/budget"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/cmdline"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ha"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logs"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

const (
	// shutdownLimit is how long the whole end may take, from the signal to the exit: below the
	// TimeoutStopSec of the systemd unit.
	shutdownLimit = 18 * time.Second
	// webShutdown is how long open requests may take to end.
	webShutdown = 2 * time.Second
)

type daemonFlags struct {
	configFile, storagePath string
	listen                  []string
	webConfig, externalURL  string
	enableAdminAPI          bool
	enablePprof             bool
}

func runCommand(app *kingpin.Application, e *environment) {
	f := &e.daemon
	cmdline.Filled(app.Flag("config.file", "The configuration file.").Default("hmcnotifyd.yaml"), &f.configFile)
	cmdline.Filled(app.Flag("storage.path", "Directory of the stored events.").Default("data"), &f.storagePath)
	app.Flag("web.listen-address", "Address of the status page, metrics and API; may be repeated.").
		Default(":10291").StringsVar(&f.listen)
	app.Flag("web.config.file",
		"File with TLS and basic authentication for the web side, as for every Prometheus exporter.").
		StringVar(&f.webConfig)
	app.Flag("web.external-url", "The address under which people reach the web side, through a proxy for example: "+
		"it is sent to Alertmanager. Without it, that of this machine and the first --web.listen-address.").
		StringVar(&f.externalURL)
	app.Flag("web.enable-admin-api", "Let whoever reaches the web side send test events, replay, and purge; "+
		"without it only requests over loopback may, and those that --web.config.file authenticates.").
		BoolVar(&f.enableAdminAPI)
	app.Flag("web.enable-pprof", "Serve Go's profiles at /debug/pprof/, under the same rule.").BoolVar(&f.enablePprof)
	e.command(app, "run", "Run the daemon (the default command).", e.run, f.validate).Default()
}

func (f *daemonFlags) validate() error {
	for _, addr := range f.listen {
		_, port, err := net.SplitHostPort(addr)
		if err == nil {
			_, err = net.DefaultResolver.LookupPort(context.Background(), "tcp", port)
		}
		if err != nil {
			return fmt.Errorf("--web.listen-address: %w", err)
		}
	}
	var err error
	if f.externalURL, err = web.ExternalURL(f.externalURL); err != nil {
		return fmt.Errorf("--web.external-url %w", err)
	}
	return nil
}

// newLogger makes the logger that the flags ask for. It writes to stderr.
func (e *environment) newLogger() (*zap.Logger, error) {
	return logs.New(e.stderr, e.logLevel, e.logFormat)
}

// onHangup receives SIGHUP, which would end the program: what comes while the daemon starts is
// obeyed when it runs.
func onHangup() (hangups <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c, func() { signal.Stop(c) }
}

func (e *environment) run(ctx context.Context) error {
	hangups, stop := onHangup()
	defer stop()
	if limit := budget.LimitMemory(); limit > 0 {
		e.log.Debug("memory is limited", zap.Int64("bytes", limit))
	}
	defer budget.PaceCollector()()
	cfg, err := config.Load(e.daemon.configFile)
	if err != nil {
		return err
	}
	d, err := newDaemon(ctx, e, cfg, e.log)
	switch {
	case err != nil && ctx.Err() != nil:
		e.log.Info("hmcnotifyd was ended while it started", zap.Error(err))
		return nil
	case err != nil:
		return err
	}
	return d.run(ctx, hangups)
}

// daemon is a running hmcnotifyd: the bridge, the web side and what systemd and signals ask of
// them.
type daemon struct {
	flags     daemonFlags
	log       *zap.Logger
	node      *ha.Node
	registry  *prometheus.Registry
	listeners []net.Listener
	server    *http.Server
	notify    notifier

	// one reload at a time, from reading the file to logging the result
	reloading sync.Mutex
	reloads   reloadMetrics
	config    atomic.Pointer[web.ConfigStatus]
}

// reloadMetrics show the result of the last reading of the configuration, as Alertmanager's do.
type reloadMetrics struct{ successful, time, hash prometheus.Gauge }

// newDaemon builds everything and listens. On an error nothing stays open.
func newDaemon(ctx context.Context, e *environment, cfg *config.Config, log *zap.Logger) (_ *daemon, err error) {
	d := &daemon{flags: e.daemon, log: log, registry: prometheus.NewRegistry(), notify: notifier{log: log}}
	protection, err := web.NewProtection(d.flags.webConfig, log.Named("web"))
	if err != nil {
		return nil, fmt.Errorf("--web.config.file: %w", err)
	}
	tlsConfig, err := protection.TLS()
	if err != nil {
		return nil, fmt.Errorf("--web.config.file: %w", err)
	}
	d.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	d.registerOwn()
	defer func() {
		if err != nil {
			for _, l := range d.listeners {
				_ = l.Close()
			}
		}
	}()
	room, handshakes := web.NewRoom(web.MaxConnections), web.NewHandshakes()
	for _, addr := range d.flags.listen {
		l, err := (&net.ListenConfig{}).Listen(context.WithoutCancel(ctx), "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("--web.listen-address: %w", err)
		}
		if tlsConfig != nil {
			l = handshakes.Listener(l)
		}
		d.listeners = append(d.listeners, room.Listener(l))
	}
	d.node, err = ha.New(ctx, bridge.Options{
		Config: cfg, StoragePath: d.flags.storagePath, Logger: log, Version: version,
		Stdout: e.stdout, Stderr: e.stderr,
		ExternalURL: cmp.Or(d.flags.externalURL, web.LocalURL(d.listeners[0].Addr(), tlsConfig != nil)),
	}, d.registry)
	if err != nil {
		return nil, err
	}
	d.server = &http.Server{
		Handler: protection.Handler(web.NewHandler(web.Options{
			Status: d.node.Status, Config: d.configStatus, Reload: d.reload,
			Bridge: d.node.Bridge, Units: d.node.Units, Live: d.live, SendTest: d.node.SendTest,
			Gatherer: d.registry, Registerer: d.registry, Build: build(), Logger: log,
			EnableAdminAPI: d.flags.enableAdminAPI, EnablePprof: d.flags.enablePprof,
		})),
		BaseContext: web.BaseContext, TLSConfig: tlsConfig,
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		WriteTimeout: web.WriteTimeout, MaxHeaderBytes: web.MaxHeader,
		// A connection of HTTP/2 is many, and each has memory of its own.
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: web.MaxStreams, MaxReceiveBufferPerConnection: 1 << 16},
		ErrorLog: stdlog.New(serverLog{log.Named("web")}, "", 0),
	}
	d.loaded(cfg)
	return d, nil
}

func (d *daemon) live() (web.LiveReader, error) {
	r, err := d.node.Live()
	if err != nil {
		return nil, err // and no reader that is nil
	}
	return r, nil
}

// serverLog logs what net/http says of connections: one message, so that it can be throttled.
type serverLog struct{ log *zap.Logger }

// Write implements io.Writer.
func (l serverLog) Write(line []byte) (int, error) {
	l.log.Info("trouble with a connection", zap.ByteString("problem", bytes.TrimSpace(line)))
	return len(line), nil
}

func (d *daemon) registerOwn() {
	gauge := func(name, help string, labels prometheus.Labels) prometheus.Gauge {
		return promauto.With(d.registry).NewGauge(prometheus.GaugeOpts{
			Namespace: "hmcnotifyd", Name: name, Help: help, ConstLabels: labels,
		})
	}
	d.reloads = reloadMetrics{
		successful: gauge("config_last_reload_successful",
			"Whether the last reading of the configuration file was successful.", nil),
		time: gauge("config_last_reload_success_timestamp_seconds",
			"When the configuration file was last read successfully, as Unix time.", nil),
		hash: gauge("config_hash", "Hash of the running configuration.", nil),
	}
	b := build()
	gauge("build_info", "Always 1; the labels say which program runs.", prometheus.Labels{
		"version": b.Version, "revision": b.Revision, "goversion": b.GoVersion,
	}).Set(1)
}

// loaded records a configuration that is now the running one.
func (d *daemon) loaded(cfg *config.Config) {
	for _, w := range cfg.Warnings {
		d.log.Warn("configuration", zap.String("warning", w.Error()))
	}
	now, hash := time.Now(), float64(cfg.Hash())
	d.config.Store(&web.ConfigStatus{
		File: cfg.File, LastReloadSuccessful: true, LastReload: now.UTC(), Hash: hash,
	})
	d.reloads.successful.Set(1)
	d.reloads.time.Set(float64(now.Unix()))
	d.reloads.hash.Set(hash)
}

func (d *daemon) configStatus() web.ConfigStatus { return *d.config.Load() }

// reload reads the configuration file again. On an error everything goes on as it was. Reloads come
// one after the other, so that the file that was read last is the one that runs.
func (d *daemon) reload() error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	d.notify.reloading()
	defer d.notify.ready()
	cfg, err := config.Load(d.flags.configFile)
	if err == nil {
		err = d.node.Reload(cfg)
	}
	if err != nil {
		d.log.Error("the configuration could not be reloaded; the running one stays", zap.Error(err))
		failed := d.configStatus()
		failed.LastReloadSuccessful, failed.LastReload, failed.Error = false, time.Now().UTC(), err.Error()
		d.config.Store(&failed)
		d.reloads.successful.Set(0)
		return err
	}
	d.loaded(cfg)
	d.log.Info("the configuration was reloaded", zap.String("file", cfg.File))
	return nil
}

// run works until ctx is done and everything has ended in order, or until something that cannot be
// done without fails.
func (d *daemon) run(ctx context.Context, hangups <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A hangup may take long to handle, and must delay neither the shutdown nor the watchdog.
	go d.obeyHangups(ctx, hangups)
	limit, done := limited(ctx, shutdownLimit)
	defer done()

	webDone := make(chan error, 1)
	go func() {
		err := d.serveWeb()
		if err != nil {
			// without its web side the daemon is blind to those who watch it
			cancel()
		}
		webDone <- err
	}()
	bridgeDone := make(chan error, 1)
	go func() { bridgeDone <- d.node.Run(ctx) }()

	d.log.Info("hmcnotifyd is running", zap.String("version", version), zap.String("config", d.configStatus().File),
		zap.Strings("addresses", d.addresses()))
	d.notify.ready()
	err := d.serve(ctx, limit, bridgeDone)

	shutdown, stop := context.WithTimeout(limit, webShutdown)
	defer stop()
	if d.server.Shutdown(shutdown) != nil {
		_ = d.server.Close() // an answer that takes longer is cut
	}
	if webErr := <-webDone; webErr != nil {
		err = errors.Join(fmt.Errorf("web: %w", webErr), err)
	}
	_ = d.log.Sync() // what was left out
	d.log.Info("hmcnotifyd has ended")
	return err
}

// serveWeb answers requests until the server is shut down, or one of the listeners fails.
func (d *daemon) serveWeb() error {
	ended := make(chan error, len(d.listeners))
	serve := d.server.Serve
	if d.server.TLSConfig != nil { // which Serve sets
		serve = func(l net.Listener) error { return d.server.ServeTLS(l, "", "") }
	}
	for _, l := range d.listeners {
		go func() { ended <- serve(l) }()
	}
	for range d.listeners {
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
	}
	return nil
}

// limited returns a context that ends so long after ctx has ended, or with the function that it
// returns.
func limited(ctx context.Context, after time.Duration) (context.Context, context.CancelFunc) {
	limit, end := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(after, end) })
	return limit, end
}

// obeyHangups opens the log files anew and reloads at each SIGHUP until ctx is done. Those that
// come while it is busy count as one.
func (d *daemon) obeyHangups(ctx context.Context, hangups <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		if err := d.node.Reopen(); err != nil {
			d.log.Error("a log file could not be opened again", zap.Error(err))
		}
		_ = d.reload() // logged there
	}
}

// serve feeds systemd until the bridge has ended or its end has reached the limit. It returns the
// bridge's error.
func (d *daemon) serve(ctx, limit context.Context, bridgeDone <-chan error) error {
	watchdog, stop := d.notify.watchdog()
	defer stop()
	status := time.NewTicker(statusEvery)
	defer status.Stop()
	shown := d.notify.status(d.node.Status(), "")
	ended := ctx.Done()
	for {
		select {
		case err := <-bridgeDone:
			return err
		case <-ended:
			ended = nil
			d.log.Info("ending: receivers log off, deliveries catch up")
			d.notify.stopping()
			d.notify.ending()
			status.Stop()
		case <-limit.Done():
			return fmt.Errorf("the end took longer than %s; what was stored is safe", shutdownLimit)
		case <-watchdog:
			if err := d.node.Alive(); err != nil {
				d.log.Error("the watchdog is not fed", zap.Error(err))
				continue
			}
			d.notify.alive()
		case <-status.C:
			shown = d.notify.status(d.node.Status(), shown)
		}
	}
}

func (d *daemon) addresses() []string {
	out := make([]string, len(d.listeners))
	for i, l := range d.listeners {
		out[i] = l.Addr().String()
	}
	return out
}
