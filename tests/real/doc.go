// Package realtest tests hmcnotifyd against the real programs around it:
// brokers, Prometheus, systemd, container images. Its tests have the build tag
// real; `make test-real` installs what they need and runs them.
package realtest
