package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the files of an HMC hold is read again, and only that; a file that cannot be used is an error and changes nothing.
func TestReread(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	one := pemOf(t, newCert(t, certOptions{name: "one", isCA: true}).cert)
	two := pemOf(t, newCert(t, certOptions{name: "two", isCA: true}).cert)
	write("c.yaml", `
hmcs:
- {name: a, hosts: [h], userid: u, password_file: password, tls: {ca_file: ca.pem}}
- {name: b, hosts: [i], session: {id_file: id, credential_file: credential}}
- {name: c, hosts: [j], userid: u, password: p}
sinks: [{name: s, log: {}}]`)
	for name, text := range map[string]string{"password": "old", "ca.pem": string(one), "id": "old id", "credential": "old credential"} {
		write(name, text)
	}
	c, err := Load(filepath.Join(dir, "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.HMCs {
		if same, err := c.HMCs[i].Reread(); err != nil || !same.Equal(&c.HMCs[i]) {
			t.Errorf("%s: nothing has changed, and it is another configuration: %v", c.HMCs[i].Name, err)
		}
	}

	write("password", "new\n")
	write("id", "new id")
	write("credential", "new credential")
	write("ca.pem", string(two))
	a, err := c.HMCs[0].Reread()
	if err != nil || a.Password.Expose() != "new" || a.TLS == c.HMCs[0].TLS || a.Equal(&c.HMCs[0]) {
		t.Errorf("%v: password and CA are %v", err, a)
	}
	if cfg, err := a.TLS.ClientConfig(); err != nil || !cfg.RootCAs.Equal(pool(t, two)) {
		t.Errorf("the CA is not the new one: %v", err)
	}
	b, err := c.HMCs[1].Reread()
	if err != nil || b.Session.ID.Expose() != "new id" || b.Session.Credential.Expose() != "new credential" || c.HMCs[1].Session.ID.Expose() != "old id" {
		t.Errorf("%v: session %v, before it %v", err, b.Session, c.HMCs[1].Session)
	}

	for name, tc := range map[string]struct{ file, text, want string }{
		"empty":           {"password", "", "hmc a: password_file: " + filepath.Join(dir, "password") + " is empty"},
		"byte order mark": {"password", "\ufeffnew", "hmc a: password_file: " + filepath.Join(dir, "password") + ": begins with a byte order mark"},
		"half a CA":       {"ca.pem", string(two[:len(two)/2]), "hmc a: tls.ca_file: " + filepath.Join(dir, "ca.pem") + " holds no certificate"},
	} {
		before, err := os.ReadFile(filepath.Join(dir, tc.file))
		if err != nil {
			t.Fatal(err)
		}
		write(tc.file, tc.text)
		if _, err := c.HMCs[0].Reread(); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%s:\n got %v\nwant %s", name, err, tc.want)
		}
		write(tc.file, string(before))
	}
	if err := os.Remove(filepath.Join(dir, "password")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.HMCs[0].Reread(); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("a file that is gone: %v", err)
	}
}
