package config

import "slices"

// Reread returns h with what its files hold now: password, session and CA certificates. Everything
// else stays as Load has read it. The error is an [Errors] of files that cannot be used, while one
// is being written for example.
func (h *HMC) Reread() (*HMC, error) {
	fresh := *h
	d := newDecoder("hmc "+h.Name, 0)
	d.first = 0
	d.secretAgain("password_file", &fresh.Password, &fresh.PasswordFile)
	if h.Session != nil {
		fresh.Session = new(*h.Session)
		d.secretAgain("session.id_file", &fresh.Session.ID, &fresh.Session.IDFile)
		d.secretAgain("session.credential_file", &fresh.Session.Credential, &fresh.Session.CredentialFile)
	}
	d.tls("tls", &fresh.TLS)
	if len(d.errs) > 0 {
		return nil, d.errs
	}
	return &fresh, nil
}

// secretAgain reads a secret again, if it came from a file.
func (d *decoder) secretAgain(path string, s *Secret, file *string) {
	if *file != "" {
		d.secretFile(path, s, file)
	}
}

// Reread returns s with what the files hold now that it names: address, secrets, keys and
// certificates. Those of an [HTTPConfig] are read again by whoever makes requests, and a template
// with the whole configuration; everything else stays as Load has read it. The error is an [Errors]
// of files that cannot be used, while one is being written for example.
func (s *Sink) Reread() (*Sink, error) {
	fresh := *s
	d := newDecoder("sink "+s.Name, 0)
	d.first = 0
	secret := d.secretAgain
	switch {
	case s.Webhook != nil:
		w := *s.Webhook
		fresh.Webhook = &w
		secret("webhook.url_file", &w.URL.secret, &w.URLFile)
		if msg := checkURL(w.URL); msg != "" {
			d.errorf("webhook.url_file", "what it holds %s", msg)
		}
		secret("webhook.secret_file", &w.Secret, &w.SecretFile)
		// Those from files stand behind the others.
		w.Secrets, w.SecretFiles = slices.Clone(w.Secrets), slices.Clone(w.SecretFiles)
		fromFiles := w.Secrets[len(w.Secrets)-len(w.SecretFiles):]
		for i := range fromFiles {
			secret(item("webhook.secret_files", i), &fromFiles[i], &w.SecretFiles[i])
		}
		for _, key := range w.SigningSecrets() {
			d.signingKey("webhook.secret_file", key)
		}
	case s.NATS != nil:
		n := *s.NATS
		fresh.NATS = &n
		secret("nats.password_file", &n.Password, &n.PasswordFile)
		secret("nats.token_file", &n.Token, &n.TokenFile)
		d.natsKeys("nats", &n.NATSLogon)
		n.TLS = d.tlsAgain("nats.tls", n.TLS)
	case s.Kafka != nil:
		k := *s.Kafka
		fresh.Kafka = &k
		if k.SASL != nil {
			sasl := *k.SASL
			k.SASL = &sasl
			secret("kafka.sasl.password_file", &sasl.Password, &sasl.PasswordFile)
		}
		k.TLS = d.tlsAgain("kafka.tls", k.TLS)
	case s.Splunk != nil:
		p := *s.Splunk
		fresh.Splunk = &p
		secret("splunk.token_file", &p.Token, &p.TokenFile)
	case s.Syslog != nil:
		l := *s.Syslog
		fresh.Syslog = &l
		d.syslogTLS("syslog.tls", &l.TLS)
	}
	if len(d.errs) > 0 {
		return nil, d.errs
	}
	return &fresh, nil
}

// tlsAgain returns a copy of t that was read again; nil: there is none.
func (d *decoder) tlsAgain(path string, t *TLS) *TLS {
	if t == nil {
		return nil
	}
	fresh := *t
	d.tls(path, &fresh)
	return &fresh
}
