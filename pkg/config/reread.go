package config

// Reread returns h with what its files hold now: password, session and CA certificates. Everything
// else stays as Load has read it. The error is an [Errors] of files that cannot be used, while one
// is being written for example.
func (h *HMC) Reread() (*HMC, error) {
	fresh := *h
	d := newDecoder("hmc "+h.Name, 0)
	d.first = 0
	secret := d.secretAgain
	secret("password_file", &fresh.Password, &fresh.PasswordFile)
	if h.Session != nil {
		session := *h.Session
		fresh.Session = &session
		secret("session.id_file", &session.ID, &session.IDFile)
		secret("session.credential_file", &session.Credential, &session.CredentialFile)
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
