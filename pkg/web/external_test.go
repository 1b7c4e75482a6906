package web

import (
	"cmp"
	"net"
	"os"
	"testing"
)

// The address under which people reach the web side is that of the flag, else the one where it listens, with the name of the
// machine where that is every address.
func TestExternalURL(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		flag, listens string
		tls           bool
		want          string
	}{
		{"", "0.0.0.0:10291", false, "http://" + host + ":10291/"},
		{"", "[::]:443", true, "https://" + host + ":443/"},
		{"", "10.1.2.3:80", false, "http://10.1.2.3:80/"},
		{"", "[2001:db8::1]:10291", true, "https://[2001:db8::1]:10291/"},
		{"https://hmc.example.com", "0.0.0.0:10291", false, "https://hmc.example.com/"},
		{"https://hmc.example.com/notify//", "0.0.0.0:10291", false, "https://hmc.example.com/notify/"},
	} {
		addr, err := net.ResolveTCPAddr("tcp", test.listens)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ExternalURL(test.flag)
		if got = cmp.Or(got, LocalURL(addr, test.tls)); err != nil || got != test.want {
			t.Errorf("%+v: %s, %v", test, got, err)
		}
	}
	for _, bad := range []string{"hmc.example.com", "ftp://a/", "http://", "https://me@a/", "https://a/?x", "https://a/#x", "http://[::1/"} {
		if _, err := ExternalURL(bad); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
