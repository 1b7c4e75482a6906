package config

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	toolkit "github.com/prometheus/exporter-toolkit/web"
	"gopkg.in/yaml.v3"
)

// LoadWeb reads a --web.config.file, which has the form of Prometheus's exporter toolkit.
func LoadWeb(file string) (*toolkit.Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	web := &toolkit.Config{
		TLSConfig:  toolkit.TLSConfig{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13},
		HTTPConfig: toolkit.HTTPConfig{HTTP2: true},
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(web); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	web.TLSConfig.SetDirectory(filepath.Dir(file))
	return web, nil
}
