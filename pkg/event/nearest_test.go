package event

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	keys := []string{"name", "hosts", "userid", "password", "password_file", "os_messages", "tls"}
	for given, want := range map[string]string{
		"host": "hosts", "user_id": "userid", "passwrod": "password", "os_message": "os_messages", "Name": "name", "tsl": "tls",
		"flavor": "", "x": "", "": "", "namespace_of_the_thing": "", strings.Repeat("a", 1000): "",
	} {
		if got := Nearest(given, keys); got != want {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
}
