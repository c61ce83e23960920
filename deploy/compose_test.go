package deploy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywright/keywright/softhsm-test/rig"
)

// arrangement is what compose.yaml arranges, without containers: the same script, configuration and balancer, on one machine.
type arrangement struct {
	t     *testing.T
	dir   string // of .state
	db    *rig.Server
	nodes [2]*process
	front string // address of the balancer
	http  *http.Client
	key   string
}

// readAll reads a file of the folder compose.
func readAll(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func arrange(t *testing.T) *arrangement {
	t.Helper()
	a := &arrangement{t: t, db: rig.Postgres(t)}
	dir := t.TempDir()
	a.dir = filepath.Join(dir, ".state")
	if err := os.WriteFile(filepath.Join(dir, "secrets.sh"), []byte(readAll(t, "compose/secrets.sh")), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	for range 2 { // the second time everything is there
		if out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "secrets.sh")).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if env := readAll(t, filepath.Join(dir, ".env")); !strings.HasPrefix(env, "KEYWRIGHT_UID=") || strings.Contains(env, "UID=0\n") {
		t.Errorf(".env: %s", env)
	}
	a.nodes[0] = a.node(0)
	a.nodes[1] = a.node(1)
	a.balance()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(readAll(t, a.dir+"/secrets/ca.pem"))) {
		t.Fatal("no CA")
	}
	a.http = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}}}
	a.key = strings.TrimSpace(readAll(t, a.dir+"/node1/owner.key"))
	return a
}

// node starts a node on the one configuration, with the places of a container put for those here.
func (a *arrangement) node(i int) *process {
	a.t.Helper()
	data := fmt.Sprintf("%s/node%d", a.dir, i+1)
	run := a.t.TempDir()
	text := readAll(a.t, "compose/keywright.yaml")
	for _, r := range [][2]string{
		{"/var/lib/keywright", data}, {"/run/keywright", run}, {"postgres://keywright@postgres/keywright?sslmode=verify-full&sslrootcert=/run/secrets/ca.pem", a.db.TCP},
		{"/run/secrets/db-password", a.db.PasswordFile}, {"/run/secrets", a.dir + "/secrets"}, {"0.0.0.0:8200", "127.0.0.1:0"}, {"172.30.200.10", "127.0.0.1"}, {"0.0.0.0:8201", "127.0.0.1:0"},
	} {
		if !strings.Contains(text, r[0]) {
			a.t.Fatalf("the configuration does not say %s", r[0])
		}
		text = strings.ReplaceAll(text, r[0], r[1])
	}
	path := fmt.Sprintf("%s/node%d.yaml", a.dir, i+1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
	if out, err := exec.CommandContext(a.t.Context(), binary(a.t), "config", "check", "--config", path, "--connect").CombinedOutput(); err != nil {
		a.t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Remove(data + "/address"); err != nil && !errors.Is(err, os.ErrNotExist) {
		a.t.Fatal(err)
	}
	p := startWith(a.t, nil, "serve", "--config", path)
	a.well(p, "unix://"+run+"/api.sock")
	return p
}

// well waits until a node says itself that it is well, as the container's health check asks it.
func (a *arrangement) well(p *process, address string) {
	a.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, err := exec.CommandContext(a.t.Context(), binary(a.t), "health", "--timeout", "4s", "--address", address).CombinedOutput()
		if err == nil {
			return
		}
		select {
		case err := <-p.done:
			p.over = true
			a.t.Fatalf("a node ends with %v\n%s", err, p.log.String())
		default:
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("a node does not get well: %s", out)
		}
	}
}

// address is where a node has its port.
func (a *arrangement) address(i int) string {
	a.t.Helper()
	return strings.TrimSpace(readAll(a.t, fmt.Sprintf("%s/node%d/address", a.dir, i+1)))
}

// balance starts HAProxy on the file as it is, which takes its places from the environment.
func (a *arrangement) balance() {
	a.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	defer l.Close()
	port, err := l.(*net.TCPListener).File()
	if err != nil {
		a.t.Fatal(err)
	}
	defer port.Close()
	program, err := exec.LookPath("haproxy")
	if err != nil {
		program = "/usr/sbin/haproxy" // where daemons are, which a user may not have in the path
	}
	path, err := filepath.Abs("compose/haproxy.cfg")
	if err != nil {
		a.t.Fatal(err)
	}
	env := []string{"LISTEN=fd@3", "CA=" + a.dir + "/secrets/ca.pem", "NODE1=" + a.address(0), "NODE2=" + a.address(1)}
	for _, some := range [][]string{env, env[1:2]} { // with the places in the environment, and with those of the file itself
		check := exec.CommandContext(a.t.Context(), program, "-c", "-f", path)
		check.Env, check.ExtraFiles = some, []*os.File{port}
		out, err := check.CombinedOutput()
		for line := range bytes.Lines(out) {
			if err != nil || bytes.Contains(line, []byte("WARNING")) && !bytes.Contains(line, []byte("could not resolve address 'node")) {
				a.t.Fatalf("HAProxy does not like its file: %v\n%s", err, out)
			}
		}
	}
	cmd := exec.Command(program, "-db", "-f", path)
	cmd.Env, cmd.ExtraFiles = env, []*os.File{port}
	begin(a.t, cmd)
	a.front = l.Addr().String()
}

// post sends a request through the balancer, on a connection of its own.
func (a *arrangement) post(ctx context.Context, path, body string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+a.front+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+a.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%d %s", resp.StatusCode, b)
	}
	if resp.TLS.CurveID != tls.X25519MLKEM768 {
		err = errors.Join(err, fmt.Errorf("the key exchange is %v", resp.TLS.CurveID))
	}
	return string(b), err
}

// knowsClients: a key that is limited to one address works from there, through the balancer, and from nowhere else.
func (a *arrangement) knowsClients() {
	a.t.Helper()
	text, err := a.post(a.t.Context(), "/api-keys", `{"name":"here","scopes":["encryption:write"],"allowed_cidrs":["127.0.0.5/32"]}`)
	if err != nil {
		a.t.Fatal(err)
	}
	var made struct{ Data struct{ Key string } }
	if err := json.Unmarshal([]byte(text), &made); err != nil || made.Data.Key == "" {
		a.t.Fatalf("%v in an answer of %d bytes", err, len(text))
	}
	owner, direct := a.key, a.http.Transport
	defer func() { a.key, a.http.Transport = owner, direct }()
	a.key = made.Data.Key
	for at, ok := range map[string]bool{"127.0.0.5": true, "127.0.0.6": false} {
		from := direct.(*http.Transport).Clone()
		from.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(at)}}).DialContext
		a.http.Transport = from
		if _, err := a.post(a.t.Context(), "/keys/k/encrypt", `{"plaintext":"aGVsbG8="}`); (err == nil) != ok {
			a.t.Errorf("from %s: %v", at, err)
		}
	}
}

// TestComposeArrangement: PostgreSQL, two nodes and the balancer serve; a node that dies costs what it had under way, and nothing after some
// seconds; and it takes part again when it is back.
func TestComposeArrangement(t *testing.T) {
	a := arrange(t)
	until := func(what string, ok func() error) {
		t.Helper()
		start := time.Now()
		for {
			err := ok()
			if err == nil {
				t.Logf("%s after %v", what, time.Since(start).Round(time.Millisecond))
				return
			}
			if time.Since(start) > 20*time.Second {
				t.Fatalf("%s: %v", what, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	until("the first answer", func() error {
		_, err := a.post(t.Context(), "/keys", `{"name":"k","algorithm":"AES-256-GCM"}`)
		return err
	})
	a.knowsClients()
	encrypt := func() error { _, err := a.post(t.Context(), "/keys/k/encrypt", `{"plaintext":"aGVsbG8="}`); return err }

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var done, failed atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if err := encrypt(); err == nil {
				done.Add(1)
			} else if ctx.Err() == nil {
				failed.Add(1)
			}
		}
	}()
	calm := func() {
		t.Helper()
		time.Sleep(time.Second) // the load goes on
		before, wrong := done.Load(), failed.Load()
		time.Sleep(time.Second)
		if d, f := done.Load()-before, failed.Load()-wrong; d < 3 || f != 0 {
			t.Errorf("%d requests are answered in a second, %d are not", d, f)
		}
	}
	calm()
	for i := range a.nodes {
		before := failed.Load()
		a.nodes[i].kill()
		until(fmt.Sprintf("without node %d three in a row are answered", i+1), func() error {
			for range 3 {
				if err := encrypt(); err != nil {
					return err
				}
			}
			return nil
		})
		time.Sleep(2 * time.Second) // by then the balancer has noticed
		calm()
		t.Logf("%d requests failed meanwhile, %d were answered so far", failed.Load()-before, done.Load())
		if i == 0 {
			a.restart(0)
			time.Sleep(2 * time.Second)
		}
	}
	cancel()
	<-ended
	a.nodes[1] = nil
}

// restart brings a killed node back, on the address that the balancer knows.
func (a *arrangement) restart(i int) {
	a.t.Helper()
	address := a.address(i)
	path := fmt.Sprintf("%s/node%d.yaml", a.dir, i+1)
	text := strings.Replace(readAll(a.t, path), "- address: 127.0.0.1:0\n", "- address: "+address+"\n", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
	p := startWith(a.t, nil, "serve", "--config", path)
	_, rest, _ := strings.Cut(text, "- unix:")
	socket, _, _ := strings.Cut(rest, " ")
	a.well(p, "unix://"+strings.TrimSpace(socket))
	a.nodes[i] = p
}
