package config

// Reread returns h with what its files hold now: password, session and CA certificates. Everything
// else stays as Load has read it. The error is an [Errors] of files that cannot be used, while one
// is being written for example.
func (h *HMC) Reread() (*HMC, error) {
	fresh := *h
	d := newDecoder("hmc "+h.Name, 0)
	secret := func(path string, s *Secret, file *string) {
		if *file != "" {
			d.secretFile(path, s, file)
		}
	}
	secret("password_file", &fresh.Password, &fresh.PasswordFile)
	if h.Session != nil {
		session := *h.Session
		fresh.Session = &session
		secret("session.id_file", &session.ID, &session.IDFile)
		secret("session.credential_file", &session.Credential, &session.CredentialFile)
	}
	d.tls("tls", &fresh.TLS)
	if len(d.errs) > 0 {
		for _, e := range d.errs {
			e.Line = 0
		}
		return nil, d.errs
	}
	return &fresh, nil
}
