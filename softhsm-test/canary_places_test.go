package softhsmtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keywright/keywright/softhsm-test/rig"
)

// ears are all to whom the service speaks by itself: the receiver of webhooks, that of the audit log, a syslog server, and the issuer of tokens.
type ears struct {
	t               *testing.T
	hooks, log, idp *ear
	syslog          string // the address of its socket
	lines           logBuffer
	signer          jose.Signer
}

// ear is an HTTP server that keeps what it is sent, with all headers.
type ear struct {
	*httptest.Server
	mu    sync.Mutex // guards heard
	heard bytes.Buffer
}

func (e *ear) take(r *http.Request) {
	body, err := io.ReadAll(r.Body)
	e.mu.Lock()
	defer e.mu.Unlock()
	fmt.Fprintln(&e.heard, r.Method, r.URL, r.Header, err)
	e.heard.Write(body)
	e.heard.WriteByte('\n')
}

func (e *ear) text() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return bytes.Clone(e.heard.Bytes())
}

func listenTo(t *testing.T, answers map[string]any) *ear {
	t.Helper()
	e := &ear{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.take(r)
		if v, ok := answers[r.URL.Path]; ok {
			if err := json.NewEncoder(w).Encode(v); err != nil {
				t.Error(err)
			}
		}
	}))
	t.Cleanup(e.Close)
	return e
}

func newEars(t *testing.T) *ears {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]any{"/keys": jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}}}
	e := &ears{t: t, hooks: listenTo(t, nil), log: listenTo(t, nil), idp: listenTo(t, answers)}
	answers["/.well-known/openid-configuration"] = map[string]string{"issuer": e.idp.URL, "jwks_uri": e.idp.URL + "/keys"}
	if e.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "1"}}, nil); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "kw") // a name of t.TempDir may be too long (unix(7))
	if err != nil {
		t.Fatal(err)
	}
	e.syslog = filepath.Join(dir, "syslog")
	l, err := net.Listen("unix", e.syslog)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer c.Close()
				if _, err := io.Copy(&e.lines, c); err != nil && !errors.Is(err, net.ErrClosed) {
					fmt.Fprintln(&e.lines, err)
				}
			}()
		}
	}()
	return e
}

// token makes one of the role that its group stands for.
func (e *ears) token(group string, lasts time.Duration) string {
	e.t.Helper()
	now := time.Now()
	payload, err := json.Marshal(map[string]any{"iss": e.idp.URL, "sub": "alice", "aud": "keywright", "iat": now.Add(-time.Hour).Unix(), "exp": now.Add(lasts).Unix(), "groups": []string{group},
		"jti": hex.EncodeToString(random(e.t, 16))})
	if err != nil {
		e.t.Fatal(err)
	}
	signed, err := e.signer.Sign(payload)
	if err != nil {
		e.t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		e.t.Fatal(err)
	}
	return text
}

// config is what of the configuration makes the service speak to them.
func (e *ears) config(tokenFile string) string {
	return fmt.Sprintf(`webhooks: {allow: [127.0.0.1], plain_http: true}
audit:
  sinks:
    - {file: %q}
    - {syslog: "unix://%s"}
    - {http: %q, token_file: %q}
credentials:
  issuers:
    - {issuer: %q, audience: [keywright], mappings: [{claims: {groups: people}, role: developer}]}
`, filepath.Join(filepath.Dir(tokenFile), "sink.lines"), e.syslog, e.log.URL, tokenFile, e.idp.URL)
}

// decoys are no secrets: they are in every place on purpose, so that a search that does not find them there proves nothing.
type decoys struct {
	*canaries
	backend, key, request string
}

func newDecoys() *decoys {
	d := &decoys{canaries: newCanaries(), backend: "b" + strings.ToLower(rand.Text()), key: "k" + strings.ToLower(rand.Text()), request: "r" + strings.ToLower(rand.Text())}
	d.add("backend", []byte(d.backend))
	d.add("key", []byte(d.key))
	d.add("request", []byte(d.request))
	return d
}

// place searches one place. wants are the decoys that are there.
func (f *flock) place(where string, text []byte, wants ...string) {
	f.t.Helper()
	f.absent(f.t, where, text)
	f.holds(where, text, wants...)
}

// holds wants decoys to be in a text.
func (f *flock) holds(where string, text []byte, wants ...string) {
	f.t.Helper()
	found := f.decoys.in(text)
	for _, want := range wants {
		if len(found[want]) == 0 {
			f.t.Errorf("%s does not hold the %s that was put there (%d bytes): that it holds no secret proves nothing", where, want, len(text))
		}
	}
}

// folder searches all files below a folder, and proves of the search that it finds: in a file that it puts there. purpose are secrets by the names of the files
// in which they are on purpose.
func (f *flock) folder(dir string, atLeast int, purpose map[string]string) {
	f.t.Helper()
	planted := filepath.Join(dir, "planted")
	if err := os.WriteFile(planted, []byte(f.decoys.request), 0o600); err != nil {
		f.t.Fatal(err)
	}
	files, found := 0, 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !d.Type().IsRegular() {
			return nil // a file that comes and goes
		}
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		files++
		if len(f.decoys.in(text)["request"]) > 0 {
			found++
		}
		if p := purpose[d.Name()]; p != "" {
			if len(f.in(text)) != 1 {
				f.t.Errorf("the search does not find %s in %s: it proves nothing", p, path)
			}
			f.absent(f.t, path, text, p)
			return nil
		}
		f.absent(f.t, path, text)
		return nil
	})
	if err != nil || files < atLeast || found == 0 {
		f.t.Errorf("%s: %d files were searched, %v, and the planted one found: %v", dir, files, err, found > 0)
	}
	if err := os.Remove(planted); err != nil {
		f.t.Error(err)
	}
}

// useOthers speaks to the service by tokens of an issuer, and makes it speak to its receivers.
func (f *flock) useOthers() {
	t := f.t
	good, bad, late := f.ears.token("people", time.Hour), f.ears.token("strangers", time.Hour), f.ears.token("people", -5*time.Minute)
	for name, token := range map[string]string{"token": good, "token that maps to nothing": bad, "expired token": late} {
		parts := strings.Split(token, ".")
		f.add(name+": claims", []byte(parts[1][len(parts[1])-36:])) // behind what all have in common
		f.add(name+": signature", []byte(parts[2]))
		if b, err := base64.RawURLEncoding.DecodeString(parts[2]); err == nil {
			f.add(name+": signature, decoded", b)
		}
	}
	if status, text := f.ask(&f.heard, "POST", "/api/v1/keys", `{"name":"by-token","algorithm":"AES-256-GCM","backend":"software"}`, good); status != 201 {
		t.Errorf("by a token: %d %s", status, text)
	}
	f.fails("GET", "/tenants", "", good)
	f.fails("GET", "/keys", "", bad)
	f.fails("GET", "/keys", "", late)
	f.fails("GET", "/keys", "", good[:len(good)-8]+"AAAAAAAA")

	hook := f.works("POST", "/webhooks", fmt.Sprintf(`{"name":"listening","url":%q}`, f.ears.hooks.URL))
	f.add("secret of the webhook that is called", []byte(strings.TrimPrefix(hook["secret"].(string), "whsec_")))
	f.works("POST", "/keys", fmt.Sprintf(`{"name":%q,"algorithm":"AES-256-GCM","backend":"software"}`, f.decoys.key), "X-Request-ID", f.decoys.request)
	f.works("POST", fmt.Sprintf("/webhooks/%v/test", hook["id"]), "")
}

// listens searches what the receivers were sent, when they were sent the decoys.
func (f *flock) listens(sinkFile string) {
	t := f.t
	deadline := time.Now().Add(20 * time.Second)
	has := func(text []byte, what string) bool { return len(f.decoys.in(text)[what]) > 0 }
	for time.Now().Before(deadline) && (!has(f.ears.hooks.text(), "key") || !has(f.ears.log.text(), "request") || !has([]byte(f.ears.lines.String()), "request")) {
		time.Sleep(50 * time.Millisecond)
	}
	f.place("what the webhook's receiver was sent", f.ears.hooks.text(), "key")
	f.place("what syslog was sent", []byte(f.ears.lines.String()), "request")
	f.place("what the issuer was asked", f.ears.idp.text())
	sent := f.ears.log.text()
	if found := f.in(sent); len(found) != 1 || len(found["sink token"]) == 0 {
		t.Errorf("the receiver of the log was sent %v, and not its own token alone", found)
	}
	f.place("what the receiver of the log was sent, but for its token", bytes.ReplaceAll(sent, []byte(f.sinkToken), nil), "request")
	lines, err := os.ReadFile(sinkFile)
	if err != nil {
		t.Fatal(err)
	}
	f.place("the file of the audit log", lines, "request")
}

// rootKey reads the bytes of a key file of the root.
func rootKey(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, coded, _ := strings.Cut(strings.TrimSpace(string(text)), ":v1:")
	b, err := base64.StdEncoding.DecodeString(coded)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// newFlock prepares a service with a backend beside the software root, and starts it. The names of secrets begin with kind; more is for the configuration.
func newFlock(t *testing.T, f *flock, backend, more string) *flock {
	t.Helper()
	private, dir := t.TempDir(), t.TempDir()
	key := filepath.Join(private, "root.key")
	if out, err := exec.Command(binary, "root", "new-key-file", key).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f.add("root key file", rootKey(t, key))
	f.sinkToken = f.mark("sink token")
	tokenFile := filepath.Join(private, "sink.token")
	if err := os.WriteFile(tokenFile, []byte(f.sinkToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.ears = newEars(t)
	config := filepath.Join(private, "keywright.yaml")
	text := fmt.Sprintf("log: {level: debug, format: json}\nroot: {key_file: %q}\nmetrics_listen: 127.0.0.1:0\n%s%s"+
		"backends:\n  - {name: software, uri: \"software:\"}\n  - %s\n", key, more, f.ears.config(tokenFile), backend)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f.sinkFile = filepath.Join(private, "sink.lines")
	f.service = start(t, dir, "--config", config, "--metrics-listen", "127.0.0.1:0")
	f.add("first owner's API key", []byte(f.key[len("kw_")+13:]))
	return f
}

// said searches the log and the answers.
func (f *flock) said() {
	t := f.t
	f.place("the log", []byte(f.log.String()), "backend")
	if n := len(f.log.String()); n < 2000 {
		t.Errorf("a log of %d bytes proves nothing", n)
	}
	f.place("an answer", f.heard.Bytes(), "key", "request", "backend")
	if found := f.in(f.wanted.Bytes()); len(found) < 15 {
		t.Errorf("of the secrets only %d were given to those who asked for them: the others were never in use", len(found))
	}
	t.Logf("%d secrets; %d bytes of answers, %d of log", len(f.count), f.heard.Len(), len(f.log.String()))
}

// TestSecretsStaySecretOnPostgreSQL is TestSecretsStaySecret with the store on PostgreSQL and the keys on a TPM: it searches the server's folder and its log, the state
// of the TPM, and all that passed between the two.
func TestSecretsStaySecretOnPostgreSQL(t *testing.T) {
	f := &flock{canaries: newCanaries(), decoys: newDecoys(), hardware: "tpm", service: &service{t: t}}
	t.Setenv("GOTRACEBACK", "crash")
	server, chip := rig.Postgres(t), rig.SWTPM(t)
	f.add("database password", []byte(server.Password(t, server.PasswordFile)))
	wire := chip.Proxy(t)
	wire.Record()
	f.backend = f.decoys.backend
	newFlock(t, f, fmt.Sprintf(`{name: %s, uri: %q, tpm: {allow_sealed: true}}`, f.backend, wire.URI),
		fmt.Sprintf("store: {url: %q, password_file: %q}\n", server.URI, server.PasswordFile))
	f.useKeys()
	f.useCredentials()
	f.useOthers()
	f.sendWrong()
	f.look()
	f.listens(f.sinkFile)
	f.notInMemory()

	var passed []byte
	for _, e := range wire.Wire() {
		passed = append(append(passed, e.Command...), e.Response...)
	}
	if len(f.digests) == 0 || !slices.ContainsFunc(f.digests, func(d []byte) bool { return bytes.Contains(passed, d) }) {
		t.Errorf("a digest that was signed is not among the %d bytes that passed to the TPM: they are not what passed", len(passed))
	}
	f.absent(t, "the wire to the TPM", passed)
	purpose := map[string]string{"owner.key": "first owner's API key"}
	f.folder(f.dir, 2, purpose)
	f.dies()
	f.folder(f.dir, 2, purpose)
	f.folder(filepath.Join(chip.Dir, "state"), 1, nil)
	data := filepath.Join(server.Dir, "data")
	f.folder(data, 500, nil)
	server.Stop(t, "fast") // with all that was in its buffers
	f.folder(data, 500, nil)
	f.holds("the folder of PostgreSQL", everything(t, data), "key", "request")
	f.said()
}

// everything is what all files below a folder hold.
func everything(t *testing.T, dir string) (all []byte) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		all = append(all, text...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestNotDumpable: another process of the service's own user cannot read its memory, nor trace it, and it leaves no core. The kernel says so by the owner of
// /proc/PID/mem (proc(5), PR_SET_DUMPABLE), which of an ordinary process is its user.
func TestNotDumpable(t *testing.T) {
	dir, err := os.MkdirTemp("", "kwdump")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	uid := os.Getuid()
	var credential *syscall.Credential
	if uid == 0 { // of a process of root nothing could be told
		uid = 65534
		credential = &syscall.Credential{Uid: 65534, Gid: 65534}
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	own := filepath.Join(dir, "keywright") // where that user may run it
	text, err := os.ReadFile(binary)
	if err == nil {
		err = os.WriteFile(own, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	owner := func(pid int) int {
		info, err := os.Stat(fmt.Sprintf("/proc/%d/mem", pid))
		if err != nil {
			t.Fatal(err)
		}
		return int(info.Sys().(*syscall.Stat_t).Uid)
	}
	run := func(cmd *exec.Cmd) *exec.Cmd {
		cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{Credential: credential}
		cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Error(err)
			}
			_ = cmd.Wait() // it was killed
		})
		return cmd
	}
	ordinary := run(exec.Command("sleep", "60"))
	if got := owner(ordinary.Process.Pid); got != uid {
		t.Fatalf("the memory of an ordinary process is user %d's: this test cannot tell", got)
	}
	served := command(filepath.Join(dir, "data"))
	served.Path, served.Args[0] = own, own
	run(served)
	for range 400 {
		if _, err := os.Stat(filepath.Join(dir, "data", "address")); err == nil {
			break
		}
		time.Sleep(25 * time.Millisecond)
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "address")); err != nil {
		t.Fatalf("it does not start: %v", err)
	}
	if got := owner(served.Process.Pid); got != 0 {
		t.Errorf("the memory of the service is open to its user %d", got)
	}
	noCore(t, served.Process.Pid)
}

// noCore wants a process whose limit of cores is 0, also the one to which it could raise it.
func noCore(t *testing.T, pid int) {
	t.Helper()
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
			if fields := strings.Fields(rest); len(fields) < 2 || fields[0] != "0" || fields[1] != "0" {
				t.Errorf("process %d may leave a core: %s", pid, line)
			}
			return
		}
	}
	t.Errorf("the limits of process %d say nothing of cores", pid)
}

// children are the processes that a process has started.
func children(t *testing.T, pid int) (out []int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that has ended
		}
		for field := range strings.FieldsSeq(string(text)) {
			n, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, n)
		}
	}
	return out
}
