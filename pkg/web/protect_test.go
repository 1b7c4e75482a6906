package web_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/crypto/bcrypt"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

func hashed(t *testing.T, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

// protected is the protection by a file with this text.
func protected(t *testing.T, text string) *web.Protection {
	t.Helper()
	file := filepath.Join(t.TempDir(), "web.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := web.NewProtection(file, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var served = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})

func logOn(ctx context.Context, h http.Handler, userid, password string) *httptest.ResponseRecorder {
	r, w := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", http.NoBody), httptest.NewRecorder()
	if userid != "" {
		r.SetBasicAuth(userid, password)
	}
	h.ServeHTTP(w, r)
	return w
}

func TestProtectionFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "web.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for text, problem := range map[string]string{
		"basic_auth_user: {}": "basic_auth_user", "basic_auth_users: {ops: plain}": `basic_auth_users: what "ops" has is no hash of bcrypt`, "tls_server_config: {cert_file: x}": "missing one of key",
		"http_server_config: {headers: {X-Evil: y}}": "X-Evil", "{}\n---\nbasic_auth_users: {ops: " + hashed(t, "one") + "}\n": "a second YAML document begins here",
	} {
		write(text)
		if _, err := web.NewProtection(file, zap.NewNop()); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"basic_auth_users: hunter2", "basic_auth_users: {ops: *hunter2}", "basic_auth_users: |\n  hunter2\n  x\nrate_limit: [hunter2]\n"} {
		write(text)
		if _, err := web.NewProtection(file, zap.NewNop()); err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", text, err)
		}
	}
	write("basic_auth_users: {ops: " + hashed(t, "one") + "}\nhttp_server_config: {headers: {X-Frame-Options: sameorigin}}\n")
	p, err := web.NewProtection(file, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	h := p.Handler(served)
	for _, test := range []struct {
		userid, password string
		want             int
	}{{"", "", 401}, {"ops", "one", 200}, {"ops", "one", 200}, {"ops", "two", 401}, {"nobody", "one", 401}, {"nobody", "", 401}, {"op", "sone", 401}} {
		w := logOn(t.Context(), h, test.userid, test.password)
		if w.Code != test.want || w.Header().Get("X-Frame-Options") != "sameorigin" || (w.Code == 401) != (w.Header().Get("WWW-Authenticate") != "") {
			t.Errorf("%s:%s: %d %v", test.userid, test.password, w.Code, w.Header())
		}
	}
	// It counts at once, what was right before does not any more.
	write("basic_auth_users: {ops: " + hashed(t, "two") + "}\n")
	if one, two := logOn(t.Context(), h, "ops", "one").Code, logOn(t.Context(), h, "ops", "two").Code; one != 401 || two != 200 {
		t.Errorf("after a change: %d, %d", one, two)
	}
	write("{")
	if w := logOn(t.Context(), h, "ops", "two"); w.Code != 500 {
		t.Errorf("a broken file lets through: %d", w.Code)
	}
	write("rate_limit: {burst: 2, interval: 1h}\n")
	if codes := fmt.Sprint(logOn(t.Context(), h, "", "").Code, logOn(t.Context(), h, "", "").Code, logOn(t.Context(), h, "", "").Code); codes != "200 200 429" {
		t.Error(codes)
	}
	if p, err := web.NewProtection("", zap.NewNop()); err != nil || logOn(t.Context(), p.Handler(served), "", "").Code != 200 {
		t.Errorf("without a file: %v", err)
	}
}

// However many guess, those who know the password are served, and what guesses cost is bounded.
func TestGuesses(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), 12)
	if err != nil {
		t.Fatal(err)
	}
	h := protected(t, "basic_auth_users: {ops: "+string(hash)+"}").Handler(served)
	if w := logOn(t.Context(), h, "ops", "right"); w.Code != 200 {
		t.Fatal(w.Code)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	codes := make(chan int, 1000)
	for i := range cap(codes) {
		all.Go(func() { codes <- logOn(ctx, h, "ops", fmt.Sprint("wrong", i)).Code })
	}
	for range 100 {
		began := time.Now()
		if w := logOn(t.Context(), h, "ops", "right"); w.Code != 200 {
			t.Fatal(w.Code)
		} else if time.Since(began) > time.Minute {
			t.Fatal("it waited for the guesses")
		}
	}
	cancel() // those who have gone wait for nothing
	all.Wait()
	close(codes)
	refused := 0
	for code := range codes {
		switch code {
		case http.StatusServiceUnavailable:
			refused++
		case http.StatusUnauthorized:
		default:
			t.Errorf("%d", code)
		}
	}
	if refused < 500 {
		t.Errorf("%d of 1000 were not checked", refused)
	}
}
