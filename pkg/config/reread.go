package config

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
