package bridge

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/check"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// checked runs a check of a configuration and returns what it says and which problems it finds.
func checked(t *testing.T, hmcs string) (said string, problems []string) {
	t.Helper()
	cfg := load(t, t.TempDir(), "hmcs:\n"+hmcs+"sinks:\n  - {name: screen, log: {output: stderr}}\n")
	var out strings.Builder
	if err := check.Run(t.Context(), check.Options{Config: cfg, Version: "test", Out: &out}); err != nil {
		problems = strings.Split(err.Error(), "\n")
	}
	return out.String(), problems
}

// awaitUnlinked waits until the broker has noticed that nobody is connected any more.
func awaitUnlinked(t *testing.T, sim *hmcsim.HMC) {
	t.Helper()
	for end := time.Now().Add(within); sim.Links() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d links are left", sim.Links())
		}
	}
}

// What is wrong with an HMC is said, all of it, with what to do; and nothing is left on the HMC.
func TestCheckHMC(t *testing.T) {
	t.Parallel()
	forbidden := func(operation string) hmcsim.RESTFault {
		return hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Status: 403, Reason: 1, Operation: operation}
	}
	unavailable := hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Status: 409, Reason: 332, Operation: "open-os-message-channel"}
	const allMessages = `os_messages: [{cpc: ".*", partition: ".*"}]`
	for _, test := range []struct {
		name     string
		sim      hmcsim.Options
		empty    bool // there is no CPC
		keys     []string
		said     []string // parts
		problems []string // a part of each
		refused  int64    // logons
	}{
		{
			name: "all is well",
			keys: []string{allMessages, "topics: [object, job, audit, security]"},
			said: []string{
				" answers (Web Services API)\n", "certificate of hmcsim, for localhost, 127.0.0.1, ::1; valid until 20",
				"signed by hmcsim CA, which is in tls.ca_file; valid until 20", "answers (link) with the same certificate",
				"answers: HMC1, version 2.16.0, API ", "accepts userid hmcuser", "topics granted: audit, job, object, security; asked for: object, job, audit, security",
				"may see 8 partitions on 2 CPCs; os_messages selects 8 of them, marked *", "CPC CPC1 (DPM mode, active): PART1*, PART2*, PART3*, PART4*",
				"CPC M90 (classic mode, operating): LP01*", "messages may be followed (tried with ", "is up after ", "heart-beats every",
				"topics subscribed: audit, job, object, os-message, security", "logged off\n",
			},
		},
		{
			name:     "topics are missing",
			sim:      hmcsim.Options{NoAuditLog: true, NoSecurityLog: true},
			keys:     []string{"topics: [object, security]"},
			said:     []string{"topics granted: job, object; asked for: object, security", `topic audit is not granted, nor asked for: it needs the task "Audit and Log Management"`},
			problems: []string{`topic security is not granted to userid hmcuser: it needs the task "View Security Logs"`},
		},
		{
			name:     "no object access",
			sim:      hmcsim.Options{Partitions: -1},
			empty:    true,
			keys:     []string{allMessages},
			said:     []string{"may see 0 partitions on 0 CPCs", `warning: os_messages[0] (cpc ".*", partition ".*") selects no partition`},
			problems: []string{"no CPC and no partition, so nothing of them is told: on the HMC, in User Management"},
		},
		{
			name:     "no task for OS messages",
			sim:      hmcsim.Options{RESTFaults: []hmcsim.RESTFault{forbidden("open-os-message-channel")}},
			keys:     []string{allMessages},
			problems: []string{`role the task "Operating System Messages"`},
		},
		{
			name: "no OS messages now",
			sim:  hmcsim.Options{RESTFaults: []hmcsim.RESTFault{unavailable}},
			keys: []string{allMessages},
			said: []string{"could not be seen: no partition offers any now (tried with 5 "},
		},
		{
			name:     "no hardware messages, no list of partitions",
			sim:      hmcsim.Options{RESTFaults: []hmcsim.RESTFault{forbidden("list-hardware-messages"), forbidden("list-permitted-partitions")}},
			keys:     []string{"hardware_messages: true"},
			said:     []string{"may see 4 partitions on 2 CPCs"},
			problems: []string{"partitions could not be listed", `it takes the task "Hardware Messages"`},
		},
		{
			name:     "a wrong password",
			keys:     []string{"userid: hmcuser\n    password: wrong"},
			said:     []string{"answers: HMC1"},
			problems: []string{"check password or password_file, and on the HMC whether userid hmcuser is disabled"},
			refused:  1,
		},
		{
			name:     "multi-factor authentication",
			sim:      hmcsim.Options{MFA: true},
			problems: []string{"multi-factor authentication"},
		},
		{
			name:     "a wrong password for the broker",
			keys:     []string{"userid: hmcuser\n    password: wrong\n    topic_names: [x.1]"},
			said:     []string{"answers (link)"},
			problems: []string{"check password or password_file"},
		},
		{
			name:     "an expired certificate",
			sim:      hmcsim.Options{CertificateKind: hmcsim.CertificateExpired},
			said:     []string{"certificate of hmcsim, for localhost, 127.0.0.1, ::1, signed by hmcsim CA; valid until 20", "(expired); SHA-256 fingerprint "},
			problems: []string{"expired on 20"},
		},
		{
			name:     "a self-signed certificate",
			sim:      hmcsim.Options{CertificateKind: hmcsim.CertificateSelfSigned},
			said:     []string{", self-signed; valid until ", "</dev/null 2>/dev/null | openssl x509 > hmc-ca.pem; compare the fingerprint"},
			problems: []string{"is self-signed (SHA-256 fingerprint "},
		},
		{
			name:     "a certificate for another name",
			sim:      hmcsim.Options{CertificateKind: hmcsim.CertificateOtherName},
			problems: []string{"is not for 127.0.0.1 but for hmc.example.com: connect to one of these names, or set tls.server_name to it"},
		},
		{
			name: "a certificate that is not verified",
			sim:  hmcsim.Options{CertificateKind: hmcsim.CertificateOtherName},
			keys: []string{"tls: {insecure_skip_verify: true}"},
			said: []string{"warning: the certificate is not verified, because tls.insecure_skip_verify is set", "set tls.server_name to it", "is up after "},
		},
		{
			name:     "no broker",
			keys:     []string{"stomp_port: 9"},
			said:     []string{"accepts userid hmcuser", "logged off\n"},
			problems: []string{"the link cannot be made: 127.0.0.1:9: dial tcp 127.0.0.1:9: connect: connection refused: nothing listens there"},
		},
		{
			name:     "no broker, and a wrong password",
			keys:     []string{"stomp_port: 9", "userid: hmcuser\n    password: wrong"},
			problems: []string{"; stomp_port is 9, on HMCs it is 61612", "check password or password_file"},
			refused:  1,
		},
		{
			name:     "no HMC",
			keys:     []string{"rest_port: 9", `hosts: ["127.0.0.1", "127.0.0.2"]`},
			problems: []string{"127.0.0.1:9: dial tcp 127.0.0.1:9: connect: connection refused: nothing listens there", "127.0.0.2:9: "},
		},
		{
			name: "the first host does not answer, and the last neither",
			keys: []string{`hosts: ["127.0.0.2", "127.0.0.1", "127.0.0.3"]`},
			said: []string{"warning: 127.0.0.2:", "the next host is used", "the link to 127.0.0.1 is up", "warning: 127.0.0.3:", "which is used when those before it do not answer"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			sim := hmctest.Start(t, test.sim)
			for _, cpc := range sim.CPCs() {
				if test.empty {
					if err := sim.RemoveCPC(cpc.Name); err != nil {
						t.Fatal(err)
					}
				}
			}
			yaml := hmcYAML(t, "a", sim, test.keys...)
			for _, key := range test.keys { // the last one counts, which YAML does not allow
				name, _, _ := strings.Cut(key, ":")
				if at := strings.Index(yaml, "    "+name+":"); at >= 0 && at != strings.LastIndex(yaml, "    "+name+":") {
					_, rest, _ := strings.Cut(yaml[at:], "\n")
					yaml = yaml[:at] + rest
				}
			}
			said, problems := checked(t, yaml)
			for _, part := range test.said {
				if !strings.Contains(said, part) {
					t.Errorf("it does not say %q", part)
				}
			}
			for i, p := range problems {
				if !strings.HasPrefix(p, "hmc a: ") || i < len(test.problems) && !strings.Contains(p, test.problems[i]) {
					t.Errorf("problem %d is %q, not %q", i, p, test.problems[min(i, len(test.problems)-1)])
				}
			}
			if len(problems) != len(test.problems) {
				t.Errorf("%d problems, not %d:\n%s", len(problems), len(test.problems), strings.Join(problems, "\n"))
			}
			awaitUnlinked(t, sim)
			if sim.Sessions() != 0 || sim.RefusedLogons() != test.refused || sim.ForbiddenCalls() != 0 {
				t.Errorf("%d sessions are left, %d logons were refused, %d forbidden calls", sim.Sessions(), sim.RefusedLogons(), sim.ForbiddenCalls())
			}
			if all := said + strings.Join(problems, "\n"); strings.Contains(all, hmcsim.DefaultPassword) || strings.Contains(all, "wrong\n") {
				t.Error("a password was printed")
			}
			if t.Failed() {
				t.Log(said)
			}
		})
	}
}

// A password that was refused is not tried on another HMC, whichever is first.
func TestCheckTriesNoPasswordTwice(t *testing.T) {
	t.Parallel()
	var yaml string
	var sims []*hmcsim.HMC
	for _, name := range []string{"a", "b", "c"} {
		sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
		sims = append(sims, sim)
		keys := []string{"userid: hmcuser\n    password: wrong"}
		if name == "c" {
			keys = []string{"userid: hmcuser\n    password: wrong\n    topic_names: [x.1]"}
		}
		yaml += hmcYAML(t, name, sim, keys...)
	}
	_, problems := checked(t, yaml)
	all := strings.Join(problems, "\n")
	if len(problems) != 3 || strings.Count(all, "check password or password_file") != 1 || strings.Count(all, "has just refused the same userid and password") != 2 {
		t.Errorf("problems:\n%s", all)
	}
	var refused int64
	for _, sim := range sims {
		refused += sim.RefusedLogons() + int64(sim.Broker().Stats().RefusedLogons)
	}
	if refused != 1 {
		t.Errorf("%d logons were refused", refused)
	}
}

// A session that was made elsewhere is left alone.
func TestCheckLeavesGivenSession(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{MFA: true})
	session, err := sim.NewSession(hmcsim.DefaultUserid)
	if err != nil {
		t.Fatal(err)
	}
	said, problems := checked(t, hmcYAML(t, "a", sim, "session: {id: "+session.SessionID+", credential: "+session.Credential+"}"))
	awaitUnlinked(t, sim)
	if len(problems) != 0 || !strings.Contains(said, "left as it is") || !strings.Contains(said, "is up after") || sim.Sessions() != 1 {
		t.Errorf("%d sessions\n%s%s", sim.Sessions(), said, problems)
	}
}

// Whoever interrupts a check leaves no session behind.
func TestCheckInterrupted(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{RESTFaults: []hmcsim.RESTFault{{Kind: hmcsim.RESTFaultHang, Operation: "list-cpcs"}}})
	cfg := load(t, t.TempDir(), "hmcs:\n"+hmcYAML(t, "a", sim)+"sinks:\n  - {name: screen, log: {output: stderr}}\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	var steps []string
	var out strings.Builder
	err := check.Run(ctx, check.Options{Config: cfg, Out: &out, Step: func(name, step string) {
		mu.Lock()
		defer mu.Unlock()
		steps = append(steps, name+": "+step)
		if strings.Contains(step, "listing CPCs") {
			time.AfterFunc(10*time.Millisecond, cancel) // the request is under way
		}
	}})
	if err == nil || !strings.Contains(out.String(), "logged off") || sim.Sessions() != 0 || sim.Logons() != 1 {
		t.Errorf("%v, %d sessions\n%s", err, sim.Sessions(), out.String())
	}
	if all := strings.Join(steps, "\n"); !strings.Contains(all, "hmc a: connecting to 127.0.0.1:") || !strings.Contains(all, "hmc a: logging off\nhmc a: ") || !strings.Contains(all, "sink screen: ") {
		t.Errorf("steps:\n%s", all)
	}
}

// What expires soon is said before it does.
func TestCheckWarnsOfExpiry(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hmc1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10*24*time.Hour + time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1, Certificate: &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}})
	yaml := hmcYAML(t, "a", sim)
	ca := regexp.MustCompile(`ca_file: "(.*)"`).FindStringSubmatch(yaml)[1]
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	said, problems := checked(t, yaml)
	for _, want := range []string{"certificate of hmc1, for 127.0.0.1, self-signed, which is in tls.ca_file; valid until ", "warning: 127.0.0.1:", "certificate of hmc1 expires on ", "(10 days left): renew it"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
	if len(problems) != 0 {
		t.Errorf("problems: %s", problems)
	}
}

// A check makes no file that the daemon, another user, cannot write to.
func TestCheckLeavesNoFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kept := filepath.Join(dir, "kept.log")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	consumer := newConsumer(t)
	consumer.set(func(*http.Request, *event.Event) int {
		t.Error("an event was sent")
		return http.StatusOK
	})
	refusing, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := refusing.Addr().String()
	refusing.Close()
	cfg := load(t, dir, "hmcs:\n"+hmcYAML(t, "a", sim)+fmt.Sprintf(
		"sinks:\n  - {name: new, log: {output: new.log}}\n  - {name: kept, log: {output: kept.log}}\n  - {name: nowhere, log: {output: no/such/dir.log}}\n"+
			"  - {name: hook, webhook: {url: %q}}\n  - {name: dead, webhook: {url: %q}}\n", consumer.url(), "http://"+nobody+"/s3cr3t"))
	var out strings.Builder
	err = check.Run(t.Context(), check.Options{Config: cfg, Out: &out})
	for _, want := range []string{"sink new: can be reached (write to ", "sink kept: can be reached", "sink hook: can be reached (POST " + consumer.server.URL + "/...; no event was sent)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, out.String())
		}
	}
	if err == nil || strings.Count(err.Error(), "\n") != 1 || !strings.HasPrefix(err.Error(), "sink nowhere: ") || !strings.Contains(err.Error(), "\nsink dead: ") || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "new.log")); err == nil {
		t.Error("new.log was left behind")
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("kept.log: %v", err)
	}
}

// What a sink asks for and no HMC has is said, with what may be meant.
func TestCheckMatchersOfSinks(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{})
	gone := hmctest.Start(t, hmcsim.Options{})
	sinks := `sinks:
  - {name: a, log: {output: stderr}, match: [{status: [stoped, stopped]}, {name: "PART1"}, {name: "PRT1"}, {cpc: "M9O"}, {cpc: "M.*"}]}
  - {name: b, log: {output: stderr}, drop: [{class: adapter, name: "OSA1"}, {class: partition, name: "OSA1"}, {status: "op.*"}]}
  - {name: c, log: {output: stderr}, match: [
      {class: partition, name: PART1, cpc: CPC1}, {class: partition, name: PART1, cpc: M90}, {class: logical-partition, cpc: CPC1},
      {class: [partition, logical-partition], cpc: M90}, {class: [logical-partition, nic], cpc: CPC1}, {class: cpc, name: "PART.*"}, {name: PART1, cpc: M90}]}
rules:
  - {match: [{name: "PART1"}, {name: "PART0"}], severity: info}
  - {match: [{status: [stoped]}], severity: info}
`
	check := func(hmcs string) string {
		cfg := load(t, t.TempDir(), "hmcs:\n"+hmcs+sinks)
		var out strings.Builder
		_ = check.Run(t.Context(), check.Options{Config: cfg, Version: "test", Out: &out})
		return out.String()
	}
	const status = `sink a: warning: match[0].status: "stoped" is no status that an HMC is known to report; is stopped meant?`
	said := check(hmcYAML(t, "a", sim))
	for _, want := range []string{
		status,
		`sink a: warning: match[2].name: "PRT1" matches none of the CPCs and partitions that the HMCs list now`,
		`sink a: warning: match[3].cpc: "M9O" matches none of the CPCs that the HMCs list now`,
		`sink b: warning: drop[1].name: "OSA1" matches none of the CPCs and partitions that the HMCs list now`,
		"sink c: warning: match[1]: nothing that the HMCs list now has its class and cpc and name\n",
		"sink c: warning: match[2]: nothing that the HMCs list now has its class and cpc\n",
		"sink c: warning: match[5]: nothing that the HMCs list now has its class and name\n",
		`rules: warning: match[1].name: "PART0" matches none of the CPCs and partitions that the HMCs list now`,
		`rules: warning: match[0].status: "stoped" is no status`,
	} {
		if !strings.Contains(said, want) {
			t.Errorf("does not say %s:\n%s", want, said)
		}
	}
	if n := len(regexp.MustCompile(`(?m)^(sink [abc]|rules): warning: `).FindAllString(said, -1)); n != 9 {
		t.Errorf("%d warnings:\n%s", n, said)
	}
	// Where one HMC does not answer, nobody knows what it has.
	gone.Stop()
	if said := check(hmcYAML(t, "a", sim) + hmcYAML(t, "b", gone)); !strings.Contains(said, status) || strings.Contains(said, "list now") {
		t.Errorf("says of what was not asked:\n%s", said)
	}
}
