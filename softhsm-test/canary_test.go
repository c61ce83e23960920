package softhsmtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keywright/keywright/softhsm-test/rig"
)

// flock is a service with secrets that the test knows, and all that it was heard to say.
type flock struct {
	*service
	*canaries
	decoys    *decoys
	ears      *ears
	hardware  string       // what the names of secrets on the backend beside the software root begin with
	backend   string       // its name
	sinkToken string       // what the receiver of the log is shown
	sinkFile  string       // the audit log in a file
	heard     bytes.Buffer // answers that must hold none of them
	wanted    bytes.Buffer // answers that were to hold some
	digests   [][]byte     // that were signed by the hardware
}

// mark makes a secret of printable characters, and makes it known.
func (f *flock) mark(name string) string {
	b := make([]byte, 15)
	if _, err := rand.Read(b); err != nil {
		f.t.Fatal(err)
	}
	text := "C" + hex.EncodeToString(b)
	f.add(name, []byte(text))
	return text
}

// ask sends a request, keeps the answer with what was heard, and gives it.
func (f *flock) ask(into *bytes.Buffer, method, path, body, key string, header ...string) (int, []byte) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, f.base+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+key)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := f.http.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	fmt.Fprintln(into, resp.Status, resp.Header)
	into.Write(text)
	into.WriteByte('\n')
	return resp.StatusCode, text
}

// works sends a request that must succeed and whose answer may hold secrets, and gives its data.
func (f *flock) works(method, path, body string, header ...string) map[string]any {
	f.t.Helper()
	status, text := f.ask(&f.wanted, method, "/api/v1"+path, body, f.key, header...)
	var v struct{ Data map[string]any }
	if err := json.Unmarshal(text, &v); err != nil || status > 299 {
		f.t.Fatalf("%s %s: %d %s %v", method, path, status, text, err)
	}
	return v.Data
}

// fails sends a request that must not.
func (f *flock) fails(method, path, body, key string, header ...string) {
	f.t.Helper()
	if status, text := f.ask(&f.heard, method, "/api/v1"+path, body, key, header...); status < 400 {
		f.t.Errorf("%s %s was answered %d %s", method, path, status, text)
	}
}

// result makes a secret of an answer known.
func (f *flock) result(name string, v any) []byte {
	f.t.Helper()
	text, ok := v.(string)
	b, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil {
		f.t.Fatalf("%s is no base64: %v", name, err)
	}
	f.add(name, b)
	return b
}

// bring imports material by the command line.
func (f *flock) bring(name, algorithm, backend string, material []byte, more ...string) {
	f.t.Helper()
	file := filepath.Join(f.t.TempDir(), "material")
	if err := os.WriteFile(file, material, 0o600); err != nil {
		f.t.Fatal(err)
	}
	out, err := f.cli(append([]string{"keys", "import", name, "--algorithm", algorithm, "--backend", backend, "-i", file}, more...)...)
	if err != nil {
		f.t.Fatalf("importing %s: %v\n%s", name, err, out)
	}
	f.heard.WriteString(out)
}

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// seedKey is the PKCS#8 form of an ML-DSA-65 seed (RFC 9881 section 6).
func seedKey(t *testing.T, seed []byte) []byte {
	t.Helper()
	der, err := asn1.Marshal(struct {
		Version   int
		Algorithm struct{ ID asn1.ObjectIdentifier }
		Key       []byte
	}{Algorithm: struct{ ID asn1.ObjectIdentifier }{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 18}}, Key: append([]byte{0x80, 32}, seed...)})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func random(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSecretsStaySecret runs the service over a token and the software root with keys, plaintexts, PINs, passphrases and credentials that the
// test knows, and then looks for them in everything that leaves the process or stays behind it.
func TestSecretsStaySecret(t *testing.T) {
	f := &flock{canaries: newCanaries(), decoys: newDecoys(), hardware: "hsm", service: &service{t: t}}
	pin, soPIN := f.mark("user PIN"), f.mark("SO PIN")
	part := rig.SoftHSMUnder(t, pin, soPIN)
	part.Setenv(t)
	t.Setenv("GOTRACEBACK", "crash") // a dying process tries to leave a core
	f.backend = f.decoys.backend
	newFlock(t, f, fmt.Sprintf(`{name: %s, uri: %q}`, f.backend, part.URI+"&x-processes=1"), "")
	f.useKeys()
	f.useCredentials()
	f.useOthers()
	f.sendWrong()
	f.look()
	f.listens(f.sinkFile)
	f.notInMemory()

	// What the processes leave behind, while they run and after they have been made to die with a core.
	purpose := map[string]string{"owner.key": "first owner's API key"}
	f.folder(f.dir, 3, purpose)
	inside := children(t, f.cmd.Process.Pid)
	if len(inside) == 0 {
		t.Error("there is no process that holds the module: nothing was seen of it")
	}
	for _, pid := range inside {
		noCore(t, pid)
	}
	f.dies()
	f.folder(f.dir, 3, purpose)
	f.holds("the data folder", everything(t, f.dir), "key", "request")
	// The token keeps what it has under the PIN, which is in the files of the rig alone.
	f.folder(part.Dir, 3, map[string]string{filepath.Base(part.PINFile): "user PIN", filepath.Base(part.SOFile): "SO PIN"})
	f.said()
}

func (f *flock) useKeys() {
	t := f.t
	for _, backend := range []string{"software", "hardware"} {
		kind, on := backend, backend
		if backend == "hardware" {
			kind, on = f.hardware, f.backend
		}
		material := random(t, 32)
		f.add(kind+" AES key", material)
		f.bring(backend+"-aes", "AES-256-GCM", on, material)
		ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		scalar, err := ec.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		f.add(kind+" EC key", scalar)
		f.bring(backend+"-ec", "ECDSA-P256", on, pkcs8(t, ec))
		r, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		f.add(kind+" RSA key", r.Primes[0].Bytes())
		f.add(kind+" RSA key", r.Primes[1].Bytes())
		f.add(kind+" RSA key", r.D.Bytes())
		f.bring(backend+"-rsa", "RSA-2048", on, pkcs8(t, r), "--purpose", "signing")
	}
	seed := random(t, 32)
	f.add("ML-DSA seed", seed)
	f.bring("software-pq", "ML-DSA-65", "software", seedKey(t, seed))
	hmac := random(t, 32)
	f.add("HMAC key", hmac)
	f.bring("software-mac", "HMAC-SHA256", "software", hmac)

	for _, backend := range []string{"software", "hardware"} {
		plain := base64.StdEncoding.EncodeToString([]byte(f.mark(backend + " plaintext")))
		sealed := f.works("POST", "/keys/"+backend+"-aes/encrypt", fmt.Sprintf(`{"plaintext":%q}`, plain))["ciphertext"]
		f.works("POST", "/decrypt", fmt.Sprintf(`{"ciphertext":%q}`, sealed))
		f.works("POST", "/decrypt", fmt.Sprintf(`{"items":[{"ciphertext":%q},{"ciphertext":"AAAA"}]}`, sealed))
		f.works("POST", "/keys/"+backend+"-aes/rewrap", fmt.Sprintf(`{"ciphertext":%q}`, sealed))
		f.result("data key", f.works("POST", "/keys/"+backend+"-aes/data-key", `{}`)["plaintext"])
		text := []byte(f.mark(backend + " message"))
		digest := sha256.Sum256(text)
		f.digests = append(f.digests, digest[:])
		message := base64.StdEncoding.EncodeToString(text)
		for _, kind := range []string{"ec", "rsa"} {
			signature := f.works("POST", "/keys/"+backend+"-"+kind+"/sign", fmt.Sprintf(`{"message":%q}`, message))["signature"]
			f.works("POST", "/keys/"+backend+"-"+kind+"/verify", fmt.Sprintf(`{"message":%q,"signature":%q}`, message, signature))
		}
	}
	message := base64.StdEncoding.EncodeToString([]byte(f.mark("message")))
	f.works("POST", "/keys/software-pq/sign", fmt.Sprintf(`{"message":%q}`, message))
	f.works("POST", "/keys/software-mac/mac", fmt.Sprintf(`{"message":%q}`, message))
	f.works("POST", "/keys", `{"name":"kem","algorithm":"ML-KEM-768"}`)
	shared := f.works("POST", "/keys/kem/encapsulate", `{}`)
	f.result("shared secret", shared["shared_secret"])
	f.works("POST", "/keys/kem/decapsulate", fmt.Sprintf(`{"kem_ciphertext":%q}`, shared["kem_ciphertext"]))
	f.works("POST", "/keys", `{"name":"kwp","algorithm":"AES-256-KWP"}`)
	wrapped := f.works("POST", "/keys/kwp/wrap", fmt.Sprintf(`{"plaintext":%q}`, base64.StdEncoding.EncodeToString([]byte(f.mark("wrapped material")))))["wrapped_key"]
	f.works("POST", "/keys/kwp/unwrap", fmt.Sprintf(`{"wrapped_key":%q}`, wrapped))
	f.result("random bytes", f.works("POST", "/random", `{"bytes":32}`)["random"])
	f.works("POST", "/kms/keys/generate", `{"algorithm":"Kyber768"}`)
	f.works("POST", "/kem/encrypt", fmt.Sprintf(`{"plaintext":%q,"key_version":1}`, base64.StdEncoding.EncodeToString([]byte(f.mark("qpher plaintext")))))
}

// token makes an API key known: not its brand and prefix, which are shown.
func (f *flock) token(name string, v any) string {
	text, ok := v.(string)
	parts := strings.SplitN(text, "_", 3)
	if !ok || len(parts) != 3 {
		f.t.Fatalf("%s is no API key", name)
	}
	f.add(name, []byte(parts[2]))
	return text
}

func (f *flock) useCredentials() {
	made := f.works("POST", "/api-keys", `{"name":"made","role":"viewer"}`, "Idempotency-Key", "once")
	key := f.token("API key", made["key"])
	if again := f.works("POST", "/api-keys", `{"name":"made","role":"viewer"}`, "Idempotency-Key", "once"); again["key"] != key {
		f.t.Error("the repetition gave another API key")
	}
	f.ask(&f.heard, "GET", "/api/v1/me", "", key)
	f.ask(&f.heard, "GET", "/api/v1/keys", "", "", "X-API-Key", key)
	f.fails("POST", "/keys", `{"name":"x","algorithm":"AES-256-GCM"}`, key)
	renewed := f.works("POST", fmt.Sprintf("/api-keys/%v/rotate", made["id"]), `{}`, "Idempotency-Key", "twice")
	f.token("renewed API key", renewed["key"])
	tenant := f.works("POST", "/tenants", `{"name":"shop"}`, "Idempotency-Key", "thrice")
	f.token("tenant owner's API key", tenant["owner_key"].(map[string]any)["key"])
	hook := f.works("POST", "/webhooks", `{"name":"hook","url":"http://127.0.0.1:9/"}`)
	f.add("webhook secret", []byte(strings.TrimPrefix(hook["secret"].(string), "whsec_")))
	f.works("POST", fmt.Sprintf("/webhooks/%v/test", hook["id"]), "")
	renewed = f.works("POST", fmt.Sprintf("/webhooks/%v/rotate-secret", hook["id"]), "")
	f.add("renewed webhook secret", []byte(strings.TrimPrefix(renewed["secret"].(string), "whsec_")))
	f.works("POST", "/root/slots", fmt.Sprintf(`{"kind":"passphrase","label":"people","passphrase":%q}`, f.mark("passphrase")))
	shares := f.works("POST", "/root/slots", `{"kind":"shamir","label":"shares","shares":3,"threshold":2}`)["shares"].([]any)
	for _, s := range shares {
		text := s.(string)
		f.add("share", []byte(text[len(text)-24:])) // behind the words that all have in common
	}
}

// sendWrong sends secrets where they don't belong: no answer repeats them.
func (f *flock) sendWrong() {
	s := f.mark("misplaced secret")
	b := base64.StdEncoding.EncodeToString([]byte(s))
	for _, c := range [][3]string{
		{"POST", "/encrypt", `{"` + s + `":1}`},
		{"POST", "/keys/software-aes/encrypt", `{"plaintext":"` + s + `"}`},
		{"POST", "/keys/software-aes/encrypt", `{"plaintext":"` + s},
		{"POST", "/keys/software-aes/encrypt", s},
		{"POST", "/keys/software-aes/encrypt", `{"plaintext":{"` + s + `":"` + s + `"}}`},
		{"POST", "/keys/software-aes/encrypt", `{"plaintext":"` + b + `","plaintext":"` + b + `"}`},
		{"POST", "/keys/software-aes/decrypt", `{"ciphertext":"` + b + `"}`},
		{"POST", "/keys/software-ec/sign", `{"message":"` + b + `","hash":"` + s + `"}`},
		{"POST", "/keys/software-ec/encrypt", `{"plaintext":"` + b + `"}`},
		{"POST", "/keys/kwp/unwrap", `{"wrapped_key":"` + b + `"}`},
		{"POST", "/keys/kem/decapsulate", `{"kem_ciphertext":"` + b + `"}`},
		{"POST", "/keys/import", `{"name":"x","algorithm":"AES-256-GCM","import_token":"` + s + `","wrapped_key":"` + b + `"}`},
		{"POST", "/keys/import", `{"name":"x","algorithm":"RSA-2048","public_key":"` + s + `"}`},
		{"POST", "/unlock", `{"passphrase":"` + s + `"}`},
		{"POST", "/unlock", `{"shares":["` + s + `"]}`},
		{"POST", "/root/slots", `{"kind":"key-file","passphrase":"` + s + `"}`},
		{"POST", "/root/slots", `{"kind":"` + s + `","passphrase":"` + s + `"}`},
		{"POST", "/api-keys", `{"name":"x","role":"` + s + `"}`},
		{"POST", "/api-keys", `{"name":"x","scopes":["` + s + `"]}`},
		{"POST", "/approvals", `{"key":"software-aes","operation":"sign","body":"` + s + `"}`},
		{"GET", "/keys?" + s + "=1", ""},
		{"GET", "/keys?limit=" + s, ""},
		{"GET", "/keys?cursor=" + s, ""},
		{"GET", "/" + s, ""},
		{"POST", "/kem/decrypt", `{"ciphertext":"` + b + `","key_version":1}`},
		{"POST", "/kem/encrypt", `{"plaintext":"` + s + `","key_version":1}`},
	} {
		f.fails(c[0], c[1], c[2], f.key)
	}
	f.fails("POST", "/keys/software-aes/encrypt", s, f.key, "Content-Type", s)
	for _, key := range []string{s, "kw_abcdefghijkl_" + s + s, "Bearer " + s} {
		f.fails("GET", "/me", "", key)
		f.fails("GET", "/me", "", "", "Authorization", "Basic "+key)
		f.fails("GET", "/me", "", f.key, "X-API-Key", key)
	}
}

// look asks for all that can be looked at.
func (f *flock) look() {
	for _, path := range []string{"/keys", "/keys/inventory", "/keys/software-aes", "/keys/hardware-aes", "/keys/hardware-rsa/versions", "/keys/software-ec/public", "/keys/hardware-ec/public?format=jwk",
		"/keys/import-parameters", "/attestation-key", "/backends", "/backends/" + f.backend, "/nodes", "/jobs", "/api-keys", "/me", "/tenants", "/settings/keys", "/audit?limit=1000",
		"/audit/checkpoint", "/audit/export", "/root", "/root/slots", "/webhooks", "/approvals", "/kms/keys", "/health", "/ready", "/openapi.json", "/docs"} {
		if status, text := f.ask(&f.heard, "GET", "/api/v1"+path, "", f.key); status != 200 {
			f.t.Errorf("%s: %d %s", path, status, text)
		}
	}
	newest := f.works("GET", "/audit?limit=1", "")["items"].([]any)[0].(map[string]any)["index"]
	for _, what := range []string{"", "/proof"} {
		if status, text := f.ask(&f.heard, "GET", fmt.Sprintf("/api/v1/audit/entries/%v%s", newest, what), "", f.key); status != 200 {
			f.t.Errorf("the entry%s was answered %d %s", what, status, text)
		}
	}
	if status, _ := f.ask(&f.heard, "POST", "/api/v1/backup", "", f.key); status != 200 {
		f.t.Errorf("the backup was answered %d", status)
	}
	if status, text := f.ask(&f.heard, "POST", "/api/v1/keys/hardware-ec/attestation", `{"nonce":"AAECAwQFBgcICQoLDA0ODw=="}`, f.key); status != 200 {
		f.t.Errorf("the evidence was answered %d %s", status, text)
	}
	address, err := os.ReadFile(filepath.Join(f.dir, "metrics.address"))
	if err != nil {
		f.t.Fatal(err)
	}
	api := f.base
	f.base = "http://" + strings.TrimSpace(string(address))
	status, text := f.ask(&f.heard, "GET", "/metrics", "", "")
	if status != 200 || len(text) < 1000 {
		f.t.Errorf("the metrics: %d %s", status, text)
	}
	f.place("the metrics", text, "backend")
	f.base = api
}

// memory reads what the process has in memory, as root can.
func memory(t *testing.T, pid int) []byte {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	var all []byte
	for line := range strings.Lines(string(maps)) {
		span, rest, _ := strings.Cut(line, " ")
		from, to, _ := strings.Cut(span, "-")
		a, err := strconv.ParseUint(from, 16, 63)
		b, failed := strconv.ParseUint(to, 16, 63)
		if err != nil || failed != nil || !strings.HasPrefix(rest, "rw") {
			continue
		}
		part := make([]byte, b-a)
		n, err := mem.ReadAt(part, int64(a))
		if err != nil && n == 0 {
			continue // reserved, and not there
		}
		all = append(all, part[:n]...)
	}
	return all
}

// wiped are the secrets that an idle process has no more in memory as they are. The others are in use (keys of the software root stay in the
// cache, a PIN until the end), or strings, which nobody can wipe; so are the lines of requests and answers, in which secrets stand as base64, once
// Go's library has let go of its buffers, its hashes and its keys, through which the root's key file and what is brought to a TPM pass, and what
// passed on a stack. SECURITY.md says so; the test logs what it sees of them.
func (f *flock) wiped(name string) bool {
	classes := []string{"software plaintext", "hardware plaintext", "wrapped material", "SO PIN"}
	if f.hardware == "hsm" {
		classes = append(classes, "root key file", "hsm AES key", "hsm EC key", "hsm RSA key")
	}
	return slices.ContainsFunc(classes, func(class string) bool { return strings.Contains(name, class) })
}

// notInMemory looks at what an idle process still has in memory. What lies in the buffers of connections the next requests overwrite.
func (f *flock) notInMemory() {
	t := f.t
	var left []string
	for try := range 8 {
		for range 50 {
			f.ask(&f.heard, "GET", "/health", "", "", "X-Padding", strings.Repeat("x", 3800))
			f.works("POST", "/keys/software-aes/encrypt", fmt.Sprintf(`{"plaintext":%q}`, base64.StdEncoding.EncodeToString(make([]byte, 2<<10))))
		}
		f.http.CloseIdleConnections()
		time.Sleep(time.Duration(try+1) * 300 * time.Millisecond)
		all := memory(t, f.cmd.Process.Pid)
		found := f.in(all)
		if len(found["software AES key"]) == 0 {
			t.Errorf("%d MiB of memory were read, and what is in use is not among them: this proves nothing", len(all)>>20)
		}
		var rest []string
		left = left[:0]
		for name, forms := range found {
			if f.wiped(name) && slices.Contains(forms, "raw") {
				left = append(left, fmt.Sprint(name, " as ", forms))
			} else {
				rest = append(rest, fmt.Sprint(name, " ", forms))
			}
		}
		if len(left) == 0 {
			slices.Sort(rest)
			t.Logf("in %d MiB of memory at look %d: %s", len(all)>>20, try+1, strings.Join(rest, ", "))
			return
		}
	}
	t.Errorf("in memory after use: %s", left)
}

// dies ends the process by a signal that leaves a core where it may.
func (f *flock) dies() {
	t := f.t
	noCore(t, f.cmd.Process.Pid)
	if err := f.cmd.Process.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-f.done:
	case <-time.After(20 * time.Second):
		t.Fatal("it does not die")
	}
	if s := f.cmd.ProcessState.Sys().(syscall.WaitStatus); s.CoreDump() || !s.Signaled() {
		t.Errorf("it ended with %v, core %v", f.cmd.ProcessState, s.CoreDump())
	}
	if !strings.Contains(f.log.String(), "goroutine ") {
		t.Error("its last words are missing: what they hold was not searched")
	}
}
