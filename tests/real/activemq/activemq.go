// Package activemq runs Apache ActiveMQ, the broker that is inside a real HMC,
// as the judge of this project's receiver and of its simulated broker: with a
// STOMP connector over TLS, users with passwords, and topics that are refused.
package activemq

import (
	"crypto/rand"
	"encoding/xml"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

const (
	debianPackage = "activemq"
	library       = "/usr/share/activemq"
	startTimeout  = 5 * time.Minute
	stopTimeout   = 2 * time.Minute
	storePassword = "changeit" // of the broker's key store, in a temporary directory

	// The groups of the broker's access rules.
	publishers  = "publishers"
	subscribers = "subscribers"
)

// User may log on and subscribe.
type User struct{ Name, Password string }

// Options of a broker; the zero value is a good one.
type Options struct {
	// Host is the address to listen on, by default 127.0.0.1.
	Host string
	// Users may log on and subscribe, by default hmcuser with hmcpass. More
	// may follow by AddUser.
	Users []User
	// Approved are the topics that users may subscribe to, by default all,
	// each without "/topic/"; "ensadmin.>" means all that begin with
	// "ensadmin.". A SUBSCRIBE to another is answered by an ERROR, and
	// publishing to it works.
	Approved []string
	// Authority has issued Certificate, by default a new one.
	Authority *certs.Authority
	// Certificate is the TLS connector's, by default a good one.
	Certificate *certs.Certificate
	// TransportOptions are added to the connectors' URIs, for example
	// "transport.hbGracePeriodMultiplier=1.5".
	TransportOptions string
}

// Broker is a broker that may be stopped and started again on the same ports.
type Broker struct {
	opts       Options
	dir        string
	port       int
	plainPort  int
	publisher  User
	process    *program.Process
	publishing []*Publisher

	mu    sync.Mutex
	users []User
}

// Start starts a broker and returns when it accepts connections. It ends with
// the test.
func Start(tb testing.TB, opts Options) *Broker {
	tb.Helper()
	if _, err := os.Stat(filepath.Join(library, "lib", "activemq-broker.jar")); err != nil {
		tb.Fatalf("Apache ActiveMQ is not installed: apt-get install %s", debianPackage)
	}
	if opts.Host == "" {
		opts.Host = "127.0.0.1"
	}
	if opts.Users == nil {
		opts.Users = []User{{Name: "hmcuser", Password: "hmcpass"}}
	}
	if opts.Approved == nil {
		opts.Approved = []string{">"}
	}
	if opts.Authority == nil {
		opts.Authority = certs.NewAuthority(tb)
	}
	if opts.Certificate == nil {
		cert := opts.Authority.Issue(tb, certs.Request{})
		opts.Certificate = &cert
	}
	b := &Broker{
		opts:      opts,
		dir:       tb.TempDir(),
		port:      program.FreePort(tb),
		plainPort: program.FreePort(tb),
		publisher: User{Name: "publisher", Password: rand.Text()},
		users:     slices.Clone(opts.Users),
	}
	b.writeFiles(tb)
	b.Start(tb)
	return b
}

// Host is the address the broker listens on.
func (b *Broker) Host() string { return b.opts.Host }

// Port is that of the STOMP connector over TLS.
func (b *Broker) Port() int { return b.port }

// PlainPort is that of the STOMP connector without TLS.
func (b *Broker) PlainPort() int { return b.plainPort }

// Authority is the one whose certificate the TLS connector has.
func (b *Broker) Authority() *certs.Authority { return b.opts.Authority }

// Start starts the broker again after Stop or Kill, on the same ports.
func (b *Broker) Start(tb testing.TB) {
	tb.Helper()
	if b.process != nil {
		select {
		case <-b.process.Exited():
		default:
			tb.Fatal("activemq: started while it runs")
		}
	}
	jars, err := filepath.Glob(filepath.Join(library, "lib", "*.jar"))
	if err != nil {
		tb.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join(library, "lib", "optional", "*.jar"))
	if err != nil {
		tb.Fatal(err)
	}
	b.process = program.Start(tb, program.Options{
		Name: "activemq",
		Path: program.Look(tb, "java", "default-jre-headless"),
		Dir:  b.dir,
		Args: []string{
			// For a quick start of a small program.
			"-Xmx192m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
			"-Dactivemq.home=" + library,
			"-Dactivemq.base=" + b.dir,
			"-Dactivemq.conf=" + b.dir,
			"-Dlog4j.configuration=file:" + filepath.Join(b.dir, "log4j.properties"),
			"-Djava.security.auth.login.config=" + filepath.Join(b.dir, "login.config"),
			"-Djava.io.tmpdir=" + b.dir,
			"-cp", strings.Join(append(jars, more...), string(os.PathListSeparator)),
			"org.apache.activemq.console.Main", "start", "xbean:file:" + filepath.Join(b.dir, "activemq.xml"),
		},
	})
	b.process.AwaitOutput(tb, ") started", startTimeout)
}

// Stop ends the broker in order, as an HMC that is shut down does.
func (b *Broker) Stop(tb testing.TB) {
	tb.Helper()
	b.closePublishers()
	// 143: the Java runtime's own for SIGTERM.
	if status := b.process.Terminate(tb, stopTimeout); status != 0 && status != 143 {
		tb.Errorf("activemq: exit status %d", status)
	}
}

// Kill ends the broker by SIGKILL, as an HMC that loses power does.
func (b *Broker) Kill() {
	b.closePublishers()
	b.process.Kill()
}

// Process is the running broker.
func (b *Broker) Process() *program.Process { return b.process }

// AddUser lets one more user log on, or changes the password of one, at once
// and without a restart.
func (b *Broker) AddUser(tb testing.TB, user User) {
	tb.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users = slices.DeleteFunc(b.users, func(u User) bool { return u.Name == user.Name })
	b.users = append(b.users, user)
	b.writeUsers(tb)
}

// RemoveUser refuses a user's next logon; a link that exists goes on.
func (b *Broker) RemoveUser(tb testing.TB, name string) {
	tb.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users = slices.DeleteFunc(b.users, func(u User) bool { return u.Name == name })
	b.writeUsers(tb)
}

func (b *Broker) writeFiles(tb testing.TB) {
	tb.Helper()
	b.writeFile(tb, "log4j.properties", log4jProperties)
	b.writeFile(tb, "login.config", loginConfig)
	b.writeFile(tb, "activemq.xml", b.brokerXML())
	b.writeUsers(tb)

	certFile, keyFile := b.opts.Certificate.WriteFiles(tb, b.dir)
	openssl := program.Look(tb, "openssl", "openssl")
	out, status := program.Output(tb, startTimeout, openssl, "pkcs12", "-export", "-name", "broker",
		"-in", certFile, "-inkey", keyFile, "-out", filepath.Join(b.dir, "broker.p12"), "-passout", "pass:"+storePassword)
	if status != 0 {
		tb.Fatalf("openssl: exit status %d\n%s", status, out)
	}
}

func (b *Broker) writeFile(tb testing.TB, name, text string) {
	tb.Helper()
	// Renamed into place: the broker may be reading the file.
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		tb.Fatal(err)
	}
}

// writeUsers writes the two files that the broker reads again at a logon when
// they are newer than what it knows.
func (b *Broker) writeUsers(tb testing.TB) {
	tb.Helper()
	var users strings.Builder
	names := make([]string, 0, len(b.users))
	for _, u := range append(b.users, b.publisher) {
		fmt.Fprintf(&users, "%s=%s\n", escapeProperty(u.Name), escapeProperty(u.Password))
	}
	for _, u := range b.users {
		names = append(names, escapeProperty(u.Name))
	}
	b.writeFile(tb, "users.properties", users.String())
	b.writeFile(tb, "groups.properties", fmt.Sprintf("%s=%s\n%s=%s\n", subscribers, strings.Join(names, ","), publishers, b.publisher.Name))
	// "Newer" is by the millisecond. A time that is still to come makes sure
	// that the next logon sees the files, however soon it follows.
	soon := time.Now().Add(time.Second)
	for _, name := range []string{"users.properties", "groups.properties"} {
		if err := os.Chtimes(filepath.Join(b.dir, name), soon, soon); err != nil {
			tb.Fatal(err)
		}
	}
}

// escapeProperty escapes a key or value of a Java properties file.
func escapeProperty(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case strings.ContainsRune(`\:=#! `, r):
			b.WriteByte('\\')
			b.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		case r < ' ' || r > '~':
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func (b *Broker) brokerXML() string {
	var entries strings.Builder
	entry := func(topic, read, write, admin string) {
		fmt.Fprintf(&entries, `<authorizationEntry topic="%s" read="%s" write="%s" admin="%s"/>`,
			escapeXML(topic), read, write, admin)
	}
	both := subscribers + "," + publishers
	// The broker grants what any matching entry grants.
	entry(">", "nobody", publishers, both)
	entry("ActiveMQ.Advisory.>", both, both, both)
	for _, topic := range b.opts.Approved {
		entry(topic, subscribers, publishers, both)
	}
	uri := func(scheme string, port int) string {
		u := url.URL{Scheme: scheme, Host: net.JoinHostPort(b.opts.Host, strconv.Itoa(port)), RawQuery: b.opts.TransportOptions}
		return escapeXML(u.String())
	}
	return fmt.Sprintf(brokerXML, escapeXML(b.dir), entries.String(), storePassword,
		uri("stomp+ssl", b.port), uri("stomp", b.plainPort))
}

func escapeXML(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder has no write error
	return b.String()
}

// brokerXML is the broker's configuration: nothing is kept on disk, as the
// HMC keeps no notification for a client that is not there. The values are the
// directory, the access rules, the key store's password and the two
// connectors' URIs.
const brokerXML = `<?xml version="1.0" encoding="UTF-8"?>
<beans xmlns="http://www.springframework.org/schema/beans"
       xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
       xsi:schemaLocation="http://www.springframework.org/schema/beans http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
                           http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="hmc" persistent="false" useJmx="false"
          schedulerSupport="false" dataDirectory="%[1]s/data">
    <plugins>
      <jaasAuthenticationPlugin configuration="hmc"/>
      <authorizationPlugin><map><authorizationMap><authorizationEntries>
        %[2]s
      </authorizationEntries></authorizationMap></map></authorizationPlugin>
    </plugins>
    <sslContext>
      <sslContext keyStore="file:%[1]s/broker.p12" keyStoreType="PKCS12" keyStorePassword="%[3]s"/>
    </sslContext>
    <systemUsage><systemUsage><memoryUsage><memoryUsage limit="96 mb"/></memoryUsage></systemUsage></systemUsage>
    <transportConnectors>
      <transportConnector name="stomp+ssl" uri="%[4]s"/>
      <transportConnector name="stomp" uri="%[5]s"/>
    </transportConnectors>
  </broker>
</beans>
`

const loginConfig = `hmc {
  org.apache.activemq.jaas.PropertiesLoginModule required
    reload=true
    org.apache.activemq.jaas.properties.user="users.properties"
    org.apache.activemq.jaas.properties.group="groups.properties";
};
`

const log4jProperties = `log4j.rootLogger=INFO, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{HH:mm:ss.SSS} %-5p %c{1} %m%n
`
