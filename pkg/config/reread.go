package config

import "slices"

// Reread returns h with what its files hold now: password, session and CA certificates. Everything
// else stays as Load has read it. The error is an [Errors] of files that cannot be used, while one
// is being written for example.
func (h *HMC) Reread() (*HMC, error) {
	return again("hmc "+h.Name, *h, func(d *decoder, fresh *HMC) {
		d.secretAgain("password_file", &fresh.Password, &fresh.PasswordFile)
		if h.Session != nil {
			fresh.Session = new(*h.Session)
			d.secretAgain("session.id_file", &fresh.Session.ID, &fresh.Session.IDFile)
			d.secretAgain("session.credential_file", &fresh.Session.Credential, &fresh.Session.CredentialFile)
		}
		d.tls("tls", &fresh.TLS)
	})
}

// Reread returns j with what the files hold now that it names.
func (j *JetStream) Reread() (*JetStream, error) {
	return again("storage.jetstream", *j, func(d *decoder, fresh *JetStream) { d.logonAgain("", &fresh.NATSLogon) })
}

// again has read read into a copy of what is called name.
func again[T any](name string, fresh T, read func(d *decoder, fresh *T)) (*T, error) {
	d := newDecoder(name, 0)
	d.first = 0
	if read(d, &fresh); len(d.errs) > 0 {
		return nil, d.errs
	}
	return &fresh, nil
}

// logonAgain reads the files of a logon again.
func (d *decoder) logonAgain(path string, n *NATSLogon) {
	at := under(path)
	d.secretAgain(at("password_file"), &n.Password, &n.PasswordFile)
	d.secretAgain(at("token_file"), &n.Token, &n.TokenFile)
	d.natsKeys(path, n)
	n.TLS = d.tlsAgain(at("tls"), n.TLS)
}

// secretAgain reads a secret again, if it came from a file.
func (d *decoder) secretAgain(path string, s *Secret, file *string) {
	if *file != "" {
		d.secretFile(path, s, file)
	}
}

// Reread returns s with what the files hold now that it names: address, secrets, keys and
// certificates. Those of an [HTTPConfig] are read again by whoever makes requests, and a template
// with the whole configuration. The rest, and the error, are as those of [HMC.Reread].
func (s *Sink) Reread() (*Sink, error) { return again("sink "+s.Name, *s, (*decoder).sinkAgain) }

func (d *decoder) sinkAgain(s *Sink) {
	switch {
	case s.Webhook != nil:
		w := *s.Webhook
		s.Webhook = &w
		d.secretAgain("webhook.url_file", &w.URL.secret, &w.URLFile)
		if msg := checkURL(w.URL); msg != "" {
			d.errorf("webhook.url_file", "what it holds %s", msg)
		}
		d.secretAgain("webhook.secret_file", &w.Secret, &w.SecretFile)
		// Those from files stand behind the others.
		w.Secrets, w.SecretFiles = slices.Clone(w.Secrets), slices.Clone(w.SecretFiles)
		fromFiles := w.Secrets[len(w.Secrets)-len(w.SecretFiles):]
		for i := range fromFiles {
			d.secretAgain(item("webhook.secret_files", i), &fromFiles[i], &w.SecretFiles[i])
		}
		for _, key := range w.SigningSecrets() {
			d.signingKey("webhook.secret_file", key)
		}
	case s.NATS != nil:
		n := *s.NATS
		s.NATS = &n
		d.logonAgain("nats", &n.NATSLogon)
	case s.Kafka != nil:
		k := *s.Kafka
		s.Kafka = &k
		if k.SASL != nil {
			k.SASL = new(*k.SASL)
			d.secretAgain("kafka.sasl.password_file", &k.SASL.Password, &k.SASL.PasswordFile)
		}
		k.TLS = d.tlsAgain("kafka.tls", k.TLS)
	case s.Splunk != nil:
		s.Splunk = new(*s.Splunk)
		d.secretAgain("splunk.token_file", &s.Splunk.Token, &s.Splunk.TokenFile)
	case s.Syslog != nil:
		s.Syslog = new(*s.Syslog)
		d.syslogTLS("syslog.tls", &s.Syslog.TLS)
	}
}

// tlsAgain returns a copy of t that was read again; nil: there is none.
func (d *decoder) tlsAgain(path string, t *TLS) *TLS {
	if t != nil {
		t = new(*t)
		d.tls(path, t)
	}
	return t
}
