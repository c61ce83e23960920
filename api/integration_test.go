package api

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/software"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/jobs"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/keys"
	"github.com/keywright/keywright/rekey"
	"github.com/keywright/keywright/root"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/store/sqlite"
)

// service is the whole of it: API, services, SQLite store and software backend.
type service struct {
	t     testing.TB
	http  http.Handler
	owner string
	root  *root.Keeper
}

func newService(t testing.TB) *service {
	t.Helper()
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	store, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "keywright.db"), sqlite.Options{})
	must(err)
	t.Cleanup(func() { must(store.Close()) })
	var service1 *keys.Service
	log, err := audit.Open(ctx, store, audit.Options{Origin: "keywright/test",
		Signer: func(ctx context.Context) (audit.CheckpointSigner, error) {
			return service1.InternalSigner(ctx, "audit-checkpoints")
		}})
	must(err)
	t.Cleanup(func() { must(log.Close(ctx)) })
	keeper := root.New(store, log, root.Options{Argon2: root.Cost{MemoryKiB: 8 << 10, Time: 1, Parallelism: 2}, Carry: []string{auth.LabelPepper}})
	t.Cleanup(keeper.Close)
	soft, err := software.Open(ctx, software.Options{Name: "default", DeriveAt: keeper.DeriveAt, Generation: keeper.Generation})
	must(err)
	t.Cleanup(func() { must(soft.Close()) })
	service1, err = keys.New(keys.Options{Store: store, Idempotency: store, Recorder: log, Backends: []backend.Backend{soft}})
	must(err)
	t.Cleanup(func() { must(service1.Close()) })
	_, err = keeper.Init(ctx, root.Caller{Principal: "system"}, root.NewSlot{Kind: root.KindKeyFile, KeyFile: make(secret.Bytes, root.KeyFileSize)})
	must(err)
	people := auth.New(store, log, auth.Options{Derive: keeper.Derive, DeriveAt: keeper.DeriveAt, Generation: keeper.Generation, Idempotency: store})
	_, owner, err := people.Bootstrap(ctx, uuid.MustParse("0195f3a2-0000-7000-8000-00000000000a"), nil)
	must(err)
	work := jobs.New(store, log, jobs.Options{Idempotency: store})
	replacing, err := rekey.New(rekey.Options{Root: keeper, Keys: service1, Jobs: work, Recorder: log, Backends: []backend.Backend{soft}, Share: 1, Settle: time.Millisecond})
	must(err)
	runner, err := jobs.NewRunner(work, jobs.RunnerOptions{Leases: store, Kinds: []jobs.Definition{replacing.Definition()}, Poll: 20 * time.Millisecond})
	must(err)
	t.Cleanup(func() { must(runner.Close(context.WithoutCancel(ctx))) })
	server, err := New(Options{Keys: service1, Auth: people, Root: keeper, Audit: log, Jobs: work, Rekey: replacing, Version: "test"})
	must(err)
	return &service{t: t, http: server.Handler(), owner: owner, root: keeper}
}

// do sends a request as the owner, or with another key.
func (s *service) do(method, path, body string, as ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, prefix+path, strings.NewReader(body))
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+append(as, s.owner)[0])
	w := httptest.NewRecorder()
	s.http.ServeHTTP(w, req)
	return w
}

// call sends a request that must succeed and decodes its data.
func call1[T any](s *service, method, path string, body any) T {
	s.t.Helper()
	text := ""
	if b, ok := body.(string); ok {
		text = b
	} else if body != nil {
		b, err := json.Marshal(body, encodeOptions)
		if err != nil {
			s.t.Fatal(err)
		}
		text = string(b)
	}
	w := s.do(method, path, text)
	var r wire.Response[T]
	if err := json.Unmarshal(w.Body.Bytes(), &r, json.RejectUnknownMembers(true)); err != nil || w.Code > 299 {
		s.t.Fatalf("%s %s: %d %s %v", method, path, w.Code, w.Body, err)
	}
	return r.Data
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func spkiOf(t testing.TB, text string) any {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("not PEM: %q", text)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func TestServiceEncryption(t *testing.T) {
	s := newService(t)
	k := call1[wire.Key](s, "POST", "/keys", wire.CreateKey{Name: "team/one+two", Algorithm: "AES-256-GCM", Default: true, Labels: map[string]string{"env": "prod", "description": "first"}})
	if k.State != "active" || k.Custody != "software" || k.Backend != "default" || k.PrimaryVersion != 1 || k.RotatedAt != nil {
		t.Errorf("%+v", k)
	}
	name := "/keys/team%2Fone+two"
	if got := call1[wire.Key](s, "GET", name, nil); got.ID != k.ID {
		t.Errorf("by name: %+v", got)
	}
	first := call1[wire.Ciphertext](s, "POST", name+"/encrypt", `{"plaintext":"AAEC","aad":"AA==","context":{"user":"7"}}`)
	empty := call1[wire.Ciphertext](s, "POST", "/encrypt", `{"plaintext":""}`) // the default key
	if empty.KeyID != k.ID || first.KeyVersion != 1 {
		t.Errorf("%+v %+v", empty, first)
	}
	if got := call1[wire.Key](s, "POST", name+"/rotate", nil); got.PrimaryVersion != 2 || got.RotatedAt == nil || !got.RotatedAt.After(k.CreatedAt) {
		t.Errorf("after rotation: %+v", got)
	}
	if got := call1[wire.Plaintext](s, "POST", "/decrypt", fmt.Sprintf(`{"ciphertext":%q,"aad":"AA==","context":{"user":"7"}}`, b64(first.Ciphertext))); !bytes.Equal(got.Plaintext, []byte{0, 1, 2}) || got.KeyVersion != 1 {
		t.Errorf("%+v", got)
	}
	if got := call1[wire.Plaintext](s, "POST", name+"/decrypt", fmt.Sprintf(`{"ciphertext":%q}`, b64(empty.Ciphertext))); len(got.Plaintext) != 0 {
		t.Errorf("%+v", got)
	}
	refused(t, s.do("POST", "/decrypt", fmt.Sprintf(`{"ciphertext":%q,"aad":"AQ==","context":{"user":"7"}}`, b64(first.Ciphertext))), 400, fault.DecryptionFailed)
	moved := call1[wire.Ciphertext](s, "POST", name+"/rewrap", fmt.Sprintf(`{"ciphertext":%q}`, b64(empty.Ciphertext)))
	if moved.KeyVersion != 2 {
		t.Errorf("rewrapped: %+v", moved)
	}
	// A batch: each item has its own result.
	batch := call1[wire.Batch[wire.Plaintext]](s, "POST", "/decrypt", fmt.Sprintf(`{"items":[{"ciphertext":%q},{"ciphertext":"AAAA"},{"ciphertext":%q}]}`, b64(moved.Ciphertext), b64(first.Ciphertext)))
	if len(batch.Items) != 3 || batch.Items[0].Error != nil || batch.Items[1].Error == nil || batch.Items[2].Error == nil ||
		batch.Items[2].Error.Code != string(fault.DecryptionFailed) {
		t.Errorf("%+v", batch)
	}
	// Not one that names a key: each fails by itself here too.
	batch = call1[wire.Batch[wire.Plaintext]](s, "POST", "/decrypt", `{"items":[{"ciphertext":"AAAA"},{"ciphertext":"AAAB"}]}`)
	if len(batch.Items) != 2 || batch.Items[0].Error == nil || batch.Items[1].Error == nil || batch.Items[1].Error.Code != string(fault.BadEnvelope) {
		t.Errorf("%+v", batch)
	}
	dk := call1[wire.DataKeyResult](s, "POST", name+"/data-key", `{"bytes":16}`)
	if got := call1[wire.Plaintext](s, "POST", "/decrypt", fmt.Sprintf(`{"ciphertext":%q}`, b64(dk.Ciphertext))); !bytes.Equal(got.Plaintext, dk.Plaintext) || len(dk.Plaintext) != 16 {
		t.Errorf("data key %x opens as %x", dk.Plaintext, got.Plaintext)
	}
	if got := call1[wire.DataKeyResult](s, "POST", "/data-key", `{}`); got.KeyID != k.ID || len(got.Plaintext) != 32 { // of the default key
		t.Errorf("%+v", got)
	}
	if hidden := call1[wire.DataKeyResult](s, "POST", name+"/data-key", `{"without_plaintext":true}`); hidden.Plaintext != nil || hidden.Ciphertext == nil {
		t.Errorf("%+v", hidden)
	}
	wrapped := call1[wire.WrappedKey](s, "POST", name+"/wrap", `{"plaintext":"AAECAwQFBgc="}`)
	if got := call1[wire.Plaintext](s, "POST", name+"/unwrap", fmt.Sprintf(`{"wrapped_key":%q}`, b64(wrapped.WrappedKey))); len(got.Plaintext) != 8 {
		t.Errorf("%+v", got)
	}

	// Versions and their states.
	versions := call1[wire.List[wire.KeyVersion]](s, "GET", name+"/versions?limit=1", nil)
	if len(versions.Items) != 1 || versions.NextCursor != "2" {
		t.Errorf("%+v", versions)
	}
	if got := call1[wire.KeyVersion](s, "POST", name+"/versions/1/state", `{"state":"compromised"}`); got.State != "compromised" {
		t.Errorf("%+v", got)
	}
	if got := call1[wire.Plaintext](s, "POST", "/decrypt", fmt.Sprintf(`{"ciphertext":%q,"aad":"AA==","context":{"user":"7"}}`, b64(first.Ciphertext))); got.KeyState != "compromised" {
		t.Errorf("%+v", got)
	}
	refused(t, s.do("POST", name+"/versions/9/state", `{"state":"active"}`), 404, fault.VersionNotFound)
	refused(t, s.do("POST", name+"/versions/x/state", `{"state":"active"}`), 404, fault.VersionNotFound)

	// Change, list, end.
	call1[wire.Key](s, "PATCH", name, `{"name":"renamed","labels":{"env":null,"a":"b"},"min_decrypt_version":2}`)
	list := call1[wire.List[wire.Key]](s, "GET", "/keys?name_prefix=ren&label=a%3Db&algorithm=AES-256-GCM&state=active", nil)
	if len(list.Items) != 1 || list.Items[0].Labels["env"] != "" || list.Items[0].MinDecryptVersion != 2 {
		t.Errorf("%+v", list)
	}
	refused(t, s.do("GET", name, ""), 404, fault.KeyNotFound)
	if got := call1[wire.Key](s, "DELETE", "/keys/renamed?waiting_period_days=7", nil); got.State != "pending-deletion" || got.DeletionAt == nil {
		t.Errorf("%+v", got)
	}
	refused(t, s.do("POST", "/keys/renamed/encrypt", `{"plaintext":"AA=="}`), 409, fault.BadState)
	if got := call1[wire.Key](s, "POST", "/keys/renamed/cancel-deletion", nil); got.DeletionAt != nil {
		t.Errorf("%+v", got)
	}
}

func TestServiceSignatures(t *testing.T) {
	s := newService(t)
	call1[wire.Key](s, "POST", "/keys", wire.CreateKey{Name: "ec", Algorithm: "ECDSA-P256", Default: true, Labels: map[string]string{"description": "signs"}})
	sig := call1[wire.Signature](s, "POST", "/keys/ec/sign", `{"message":"AAEC"}`)
	full := call1[wire.PublicKey](s, "GET", "/keys/ec/public?include=all", nil)
	pub := spkiOf(t, full.PublicKey).(*ecdsa.PublicKey)
	digest := sha256.Sum256([]byte{0, 1, 2})
	if !ecdsa.VerifyASN1(pub, digest[:], sig.Signature) {
		t.Error("the signature does not verify under the public key")
	}
	if *full.Name != "ec" || *full.Description != "signs" || !*full.IsActive || !*full.IsDefault || *full.IsPostQuantum || *full.KeyType != "signing" || full.CreatedAt == nil {
		t.Errorf("%+v", full)
	}
	if lean := call1[wire.PublicKey](s, "GET", "/keys/ec/public?include=name&include=isActive,state", nil); lean.Name == nil || lean.State == nil || lean.IsActive == nil || lean.CreatedAt != nil || lean.IsDefault != nil {
		t.Errorf("%+v", lean)
	}
	if bare := call1[wire.PublicKey](s, "GET", "/keys/ec/public", nil); bare.Name != nil || bare.KeyVersion != 1 || bare.Format != "pem" {
		t.Errorf("%+v", bare)
	}
	raw := call1[wire.PublicKey](s, "GET", "/keys/ec/public?format=raw&version=1", nil)
	want, err := pub.Bytes()
	if err != nil || raw.PublicKey != b64(want) {
		t.Errorf("raw is %s, %v", raw.PublicKey, err)
	}
	w := s.do("GET", "/keys/ec/public?format=jwk&include=nonsense", "")
	j, err := keyenc.ParseJWK(w.Body.Bytes())
	if err != nil || !pub.Equal(j) || w.Header().Get("Content-Type") != "application/jwk+json" || !strings.Contains(w.Body.String(), `"use":"sig"`) {
		t.Errorf("%s %v %v", w.Body, w.Header(), err)
	}
	refused(t, s.do("GET", "/keys/ec/public?include=nonsense", ""), 400, fault.BadQuery)
	refused(t, s.do("GET", "/keys/ec/public?format=der", ""), 400, fault.BadQuery)
	refused(t, s.do("GET", "/keys/ec/public?version=5", ""), 404, fault.VersionNotFound)

	p1363 := call1[wire.Signature](s, "POST", "/sign", fmt.Sprintf(`{"digest":%q,"hash":"SHA-256","encoding":"p1363"}`, b64(digest[:])))
	for body, valid := range map[string]bool{
		fmt.Sprintf(`{"message":"AAEC","signature":%q}`, b64(sig.Signature)):                             true,
		fmt.Sprintf(`{"message":"AAED","signature":%q}`, b64(sig.Signature)):                             false,
		fmt.Sprintf(`{"message":"AAEC","signature":%q,"encoding":"p1363"}`, b64(p1363.Signature)):        true,
		fmt.Sprintf(`{"digest":%q,"signature":%q,"hash":"SHA-256"}`, b64(digest[:]), b64(sig.Signature)): true,
	} {
		if got := call1[wire.Validity](s, "POST", "/keys/ec/verify", body); *got.Valid != valid {
			t.Errorf("%s: %v", body, *got.Valid)
		}
	}
	refused(t, s.do("POST", "/keys/ec/sign", `{"message":"","hash":"SHA-1"}`), 400, fault.BadField)
	refused(t, s.do("POST", "/keys/ec/sign", `{"message":"","digest":""}`), 400, fault.MissingField)

	call1[wire.Key](s, "POST", "/keys", wire.CreateKey{Name: "mac", Algorithm: "HMAC-SHA256"})
	refused(t, s.do("GET", "/keys/mac/public", ""), 400, fault.OperationNotAllowed)
	tag := call1[wire.MACResult](s, "POST", "/keys/mac/mac", `{"message":"AAEC"}`)
	for mac, valid := range map[string]bool{b64(tag.MAC): true, b64(make([]byte, 32)): false} {
		if got := call1[wire.Validity](s, "POST", "/keys/mac/verify-mac", fmt.Sprintf(`{"message":"AAEC","mac":%q}`, mac)); *got.Valid != valid {
			t.Errorf("mac %s: %v", mac, *got.Valid)
		}
	}
	refused(t, s.do("POST", "/keys/mac/mac", `{"message":"","mac":""}`), 400, fault.BadField)
	refused(t, s.do("POST", "/keys/mac/verify-mac", `{"message":""}`), 400, fault.MissingField)

	call1[wire.Key](s, "POST", "/keys", wire.CreateKey{Name: "dh", Algorithm: "X25519"})
	mine, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(mine.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	theirs := spkiOf(t, call1[wire.PublicKey](s, "GET", "/keys/dh/public", nil).PublicKey).(*ecdh.PublicKey)
	shared, err := mine.ECDH(theirs)
	if err != nil {
		t.Fatal(err)
	}
	okm, err := hkdf.Key(sha256.New, shared, []byte{9}, "x", 32)
	if err != nil {
		t.Fatal(err)
	}
	for _, peer := range []string{b64(mine.PublicKey().Bytes()), b64(der), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))} {
		got := call1[wire.DerivedKey](s, "POST", "/keys/dh/derive", wire.Derive{DeriveItem: wire.DeriveItem{PeerPublicKey: peer, Salt: []byte{9}, Info: []byte("x"), Length: 32}})
		if !bytes.Equal(got.DerivedKey, okm) {
			t.Errorf("derived %x, want %x", got.DerivedKey, okm)
		}
	}
	for _, peer := range []string{"A", "-----BEGIN PUBLIC KEY-----\nAA==\n", "x-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		refused(t, s.do("POST", "/keys/dh/derive", string(must(encode(wire.Derive{DeriveItem: wire.DeriveItem{PeerPublicKey: peer}})))), 400, fault.BadEncoding)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestServiceImportExport(t *testing.T) {
	s := newService(t)
	p := call1[wire.ImportParameters](s, "GET", "/keys/import-parameters", nil)
	pub := spkiOf(t, p.PublicKey).(*rsa.PublicKey)
	material := bytes.Repeat([]byte{5}, 32)
	wrapped, err := keyenc.WrapRSAAES(rand.Reader, pub, crypto.SHA256, material)
	if err != nil {
		t.Fatal(err)
	}
	k := call1[wire.Key](s, "POST", "/keys/import", wire.ImportKey{Name: "brought", Algorithm: "AES-256-GCM", ImportToken: p.ImportToken, WrappedKey: wrapped, Policy: &wire.Policy{Exportable: true}})
	if k.Origin != "imported" || k.State != "active" {
		t.Errorf("%+v", k)
	}
	mine, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(mine.Public())
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	out := call1[wire.ExportedKey](s, "POST", "/keys/brought/export", wire.ExportKey{PublicKey: text, Hash: "SHA-384"})
	back, err := keyenc.UnwrapRSAAES(rand.Reader, mine.Size(), out.WrappedKey, func(b []byte) ([]byte, error) {
		return mine.Decrypt(nil, b, &rsa.OAEPOptions{Hash: crypto.SHA384})
	}, func(error) bool { return false })
	if err != nil || !bytes.Equal(back, material) || out.WrappingAlgorithm != "RSA_AES_KEY_WRAP_SHA_384" {
		t.Errorf("%x %v %s", back, err, out.WrappingAlgorithm)
	}
	refused(t, s.do("POST", "/keys/brought/export", `{}`), 400, fault.MissingField)
	refused(t, s.do("POST", "/keys/import", `{"key":"brought","name":"x"}`), 400, fault.MissingField)
	refused(t, s.do("POST", "/keys/import", `{"name":"x","algorithm":"AES-256-GCM"}`), 400, fault.MissingField)
	refused(t, s.do("POST", "/keys/import", `{"name":"x","algorithm":"RSA-2048","public_key":"junk"}`), 400, fault.BadEncoding)
	only := call1[wire.Key](s, "POST", "/keys/import", wire.ImportKey{Name: "theirs", Algorithm: "RSA-2048", Purpose: "encryption", PublicKey: text})
	if only.Origin != "public-only" {
		t.Errorf("%+v", only)
	}
	c := call1[wire.Ciphertext](s, "POST", "/keys/theirs/encrypt", `{"plaintext":"AAEC","format":"raw","hash":"SHA-1"}`)
	if got, err := mine.Decrypt(nil, c.Ciphertext, &rsa.OAEPOptions{Hash: crypto.SHA1}); err != nil || !bytes.Equal(got, []byte{0, 1, 2}) {
		t.Errorf("%x %v", got, err)
	}
}

func TestServiceAdministration(t *testing.T) {
	s := newService(t)
	made := call1[wire.APIKey](s, "POST", "/api-keys", `{"name":"reader","scopes":["keys:read","audit:read"],"expires_at":"2099-01-01T00:00:00Z"}`)
	if made.Key == "" || !strings.Contains(made.Key, made.Prefix) || made.ExpiresAt == nil {
		t.Errorf("%+v", made)
	}
	if w := s.do("GET", "/keys", "", made.Key); w.Code != 200 {
		t.Errorf("a new key: %d %s", w.Code, w.Body)
	}
	refused(t, s.do("POST", "/keys", `{"name":"a","algorithm":"AES-256-GCM"}`, made.Key), 403, fault.InsufficientScope)
	refused(t, s.do("GET", "/audit/export", "", made.Key), 403, fault.InsufficientScope)
	list := call1[wire.List[wire.APIKey]](s, "GET", "/api-keys", nil)
	if len(list.Items) != 2 || list.Items[0].Key != "" || list.Items[1].Key != "" {
		t.Errorf("%+v", list)
	}
	if got := call1[wire.APIKey](s, "DELETE", "/api-keys/"+made.ID, nil); got.RevokedAt == nil {
		t.Errorf("%+v", got)
	}
	refused(t, s.do("GET", "/keys", "", made.Key), 401, fault.Unauthenticated)
	refused(t, s.do("DELETE", "/api-keys/nothing", ""), 404, fault.APIKeyNotFound)

	if got := call1[wire.RandomResult](s, "POST", "/random", `{"bytes":1000,"backend":"default"}`); len(got.Random) != 1000 || bytes.Equal(got.Random[:500], got.Random[500:]) {
		t.Errorf("random: %d bytes", len(got.Random))
	}
	refused(t, s.do("POST", "/random", `{"bytes":1048577}`), 400, fault.BadSize)
	refused(t, s.do("POST", "/random", `{"bytes":1,"backend":"none"}`), 404, fault.BackendNotFound)
	b := call1[wire.List[wire.Backend]](s, "GET", "/backends", nil)
	if len(b.Items) != 1 || b.Items[0].State != "available" || !b.Items[0].Default || len(b.Items[0].Capabilities) < 15 {
		t.Errorf("%+v", b)
	}
	if one := call1[wire.Backend](s, "GET", "/backends/default", nil); one.Name != "default" {
		t.Errorf("%+v", one)
	}
	refused(t, s.do("GET", "/backends/none", ""), 404, fault.BackendNotFound)

	slots := call1[wire.List[wire.Slot]](s, "GET", "/root/slots", nil)
	if len(slots.Items) != 1 {
		t.Fatalf("%+v", slots)
	}
	refused(t, s.do("DELETE", "/root/slots/"+slots.Items[0].ID, ""), 409, fault.LastSlot)
	added := call1[wire.AddedSlot](s, "POST", "/root/slots", `{"kind":"shamir","label":"board","shares":3,"threshold":2}`)
	if len(added.Shares) != 3 || added.Kind != "shamir" {
		t.Errorf("%+v", added)
	}
	refused(t, s.do("POST", "/root/slots", `{"kind":"shamir","passphrase":"long enough"}`), 400, fault.MissingField)
	refused(t, s.do("POST", "/root/slots", `{"kind":"stone"}`), 400, fault.BadField)
	refused(t, s.do("POST", "/root/slots", `{"kind":"tpm"}`), 400, fault.MissingField)
	refused(t, s.do("POST", "/root/slots", `{"label":"nothing"}`), 400, fault.MissingField)
	refused(t, s.do("POST", "/root/slots", `{"kind":"hsm"}`), 400, fault.MissingField)
	refused(t, s.do("POST", "/root/slots", `{"device":"default"}`), 404, fault.BackendNotFound)
	refused(t, s.do("POST", "/root/slots", `{"kind":"hsm","device":"none"}`), 404, fault.BackendNotFound)
	refused(t, s.do("POST", "/root/slots", `{"device":"none","passphrase":"long enough"}`), 400, fault.MissingField)
	refused(t, s.do("POST", "/root/slots", `{"kind":"passphrase","passphrase":"long enough","device":"none"}`), 400, fault.MissingField)
	refused(t, s.do("POST", "/root/slots", `{"kind":"key-file","device":"none"}`), 400, fault.MissingField)
	call1[wire.Empty](s, "DELETE", "/root/slots/"+slots.Items[0].ID, nil)
	refused(t, s.do("DELETE", "/root/slots/"+slots.Items[0].ID, ""), 404, fault.SlotNotFound)
	refused(t, s.do("POST", "/unlock", `{"passphrase":"long enough"}`), 409, fault.NotLocked)
}

func TestServiceAudit(t *testing.T) {
	s := newService(t)
	k := call1[wire.Key](s, "POST", "/keys", wire.CreateKey{Name: "a", Algorithm: "AES-256-GCM"})
	for range 3 {
		call1[wire.Ciphertext](s, "POST", "/keys/a/encrypt", `{"plaintext":"AAEC"}`)
	}
	s.do("POST", "/decrypt", `{"ciphertext":"AAAA"}`)
	byName := call1[wire.List[wire.AuditEntry]](s, "GET", "/audit?key=a&action=encrypt&outcome=ok", nil)
	byID := call1[wire.List[wire.AuditEntry]](s, "GET", "/audit?key="+k.ID+"&action=encrypt&limit=2", nil)
	if len(byName.Items) != 3 || len(byID.Items) != 2 || byName.Items[0].Index != byID.Items[0].Index || byName.Items[0].KeyVersion != 1 {
		t.Errorf("%+v %+v", byName, byID)
	}
	if none := call1[wire.List[wire.AuditEntry]](s, "GET", "/audit?from=2099-01-01T00:00:00Z", nil); len(none.Items) != 0 {
		t.Errorf("%+v", none)
	}
	refused(t, s.do("GET", "/audit?from=yesterday", ""), 400, fault.BadQuery)
	refused(t, s.do("GET", "/audit?cursor=made-up", ""), 400, fault.BadCursor)
	refused(t, s.do("GET", "/audit?key=nobody", ""), 404, fault.KeyNotFound)

	cp := call1[wire.Checkpoint](s, "GET", "/audit/checkpoint", nil)
	head, err := audit.OpenCheckpoint([]byte(cp.Checkpoint), cp.VerifierKey)
	if err != nil || head.Size != cp.Size {
		t.Fatalf("%+v %v", cp, err)
	}
	p := call1[wire.Proof](s, "GET", fmt.Sprintf("/audit/entries/%d/proof", byName.Items[0].Index), nil)
	in, err := audit.OpenCheckpoint([]byte(p.Checkpoint), cp.VerifierKey)
	if err != nil {
		t.Fatal(err)
	}
	var path tlog.RecordProof
	for _, h := range p.Hashes {
		path = append(path, tlog.Hash(h))
	}
	if err := tlog.CheckRecord(path, int64(in.Size), tlog.Hash(in.Root), int64(p.Index), tlog.RecordHash(p.Leaf)); err != nil {
		t.Errorf("the proof does not hold: %v", err)
	}
	if one := call1[wire.AuditEntry](s, "GET", fmt.Sprintf("/audit/entries/%d", byName.Items[0].Index), nil); !cmp.Equal(one, byName.Items[0]) {
		t.Errorf("entry %+v, want %+v", one, byName.Items[0])
	}
	refused(t, s.do("GET", "/audit/entries/999999", ""), 404, fault.EntryNotFound)
	refused(t, s.do("GET", "/audit/entries/999999/proof", ""), 404, fault.EntryNotFound)
	refused(t, s.do("GET", "/audit/entries/x/proof", ""), 404, fault.EntryNotFound)
	if kept := call1[wire.Proof](s, "GET", fmt.Sprintf("/audit/entries/%d/proof?size=%d", p.Index, head.Size), nil); kept.Checkpoint != "" || kept.Size != head.Size {
		t.Errorf("%+v", kept)
	} else {
		path = nil
		for _, h := range kept.Hashes {
			path = append(path, tlog.Hash(h))
		}
		if err := tlog.CheckRecord(path, int64(head.Size), tlog.Hash(head.Root), int64(p.Index), tlog.RecordHash(kept.Leaf)); err != nil {
			t.Errorf("the proof in a kept checkpoint does not hold: %v", err)
		}
	}
	refused(t, s.do("GET", fmt.Sprintf("/audit/entries/%d/proof?size=%d", p.Index, p.Index), ""), 404, fault.EntryNotFound)
	refused(t, s.do("GET", "/audit/entries/1/proof?size=999999", ""), 400, fault.BadQuery)
	refused(t, s.do("GET", "/audit/entries/1/proof?size=0", ""), 400, fault.BadQuery)

	// The answer of an operation, and that of a refusal, say where they are recorded.
	for path, want := range map[string]string{"/keys/a/encrypt": "ok", "/keys/nobody/encrypt": string(fault.KeyNotFound)} {
		w := s.do("POST", path, `{"plaintext":"AAEC"}`)
		newest := call1[wire.List[wire.AuditEntry]](s, "GET", "/audit?action=encrypt&limit=1", nil).Items[0]
		if got := w.Header().Get("X-Audit-Index"); got != fmt.Sprint(newest.Index) || newest.Outcome != want {
			t.Errorf("%s: X-Audit-Index %q, the entry is %d (%s)", path, got, newest.Index, newest.Outcome)
		}
	}
	if w := s.do("GET", "/keys/a", ""); w.Header().Get("X-Audit-Index") != "" {
		t.Error("a look that is not recorded has an index")
	}

	grown := call1[wire.Consistency](s, "GET", fmt.Sprintf("/audit/consistency?from=%d", head.Size), nil)
	now, err := audit.OpenCheckpoint([]byte(grown.Checkpoint), cp.VerifierKey)
	if err != nil || grown.From != head.Size || grown.To != now.Size {
		t.Fatalf("%+v %v", grown, err)
	}
	var between tlog.TreeProof
	for _, h := range grown.Hashes {
		between = append(between, tlog.Hash(h))
	}
	if err := tlog.CheckTree(between, int64(now.Size), now.Root, int64(head.Size), head.Root); err != nil {
		t.Errorf("the proof of growth does not hold: %v", err)
	}
	if part := call1[wire.Consistency](s, "GET", "/audit/consistency?from=1&to=2", nil); part.Checkpoint != "" || len(part.Hashes) != 1 {
		t.Errorf("%+v", part)
	}
	refused(t, s.do("GET", "/audit/consistency?from=2&to=1", ""), 400, fault.BadQuery)
	refused(t, s.do("GET", "/audit/consistency?from=999999", ""), 400, fault.BadQuery)

	w := s.do("GET", "/audit/export", "")
	if w.Code != 200 || w.Header().Get("Content-Type") != exportMedia {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if r, err := audit.VerifyExport(w.Body, []byte(cp.Checkpoint), cp.VerifierKey, nil); err != nil {
		t.Errorf("the export does not verify: %+v %v", r, err)
	}
}

// TestServiceOtherTenant asks for what belongs to another tenant: it must look like what is not there.
func TestServiceOtherTenantsProof(t *testing.T) {
	r := newRig(t, Limits{})
	r.audit.found = audit.Found{Index: 3, Entry: audit.Entry{Tenant: uuid.New()}}
	refused(t, r.do("GET", "/api/v1/audit/entries/3/proof", ""), 404, fault.EntryNotFound)
	if r.do("GET", "/api/v1/audit", ""); r.audit.filter.Tenant == nil || *r.audit.filter.Tenant != tenant {
		t.Errorf("the search was for the tenant %v", r.audit.filter.Tenant)
	}
}

func TestServiceIdempotency(t *testing.T) {
	s := newService(t)
	send := func(path, body string) *httptest.ResponseRecorder {
		req := httptest.NewRequest(http.MethodPost, prefix+path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-API-Key", s.owner)
		req.Header.Set("Idempotency-Key", "once")
		w := httptest.NewRecorder()
		s.http.ServeHTTP(w, req)
		return w
	}
	var ids []string
	for range 2 {
		w := send("/keys", `{"name":"a","algorithm":"AES-256-GCM"}`)
		var r wire.Response[wire.Key]
		if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code != 201 {
			t.Fatalf("%d %s %v", w.Code, w.Body, err)
		}
		ids = append(ids, r.Data.ID)
	}
	if ids[0] != ids[1] {
		t.Errorf("repeating made another key: %v", ids)
	}
	refused(t, send("/keys", `{"name":"b","algorithm":"AES-256-GCM"}`), 409, fault.IdempotencyConflict)
}

func TestServiceBadDays(t *testing.T) {
	s := newService(t)
	refused(t, s.do("POST", "/encrypt", `{"plaintext":"`+strings.Repeat("A", 10<<20)+`"}`), 413, fault.BodyTooLarge)
	refused(t, s.do("POST", "/encrypt", `{"context":`+strings.Repeat(`{"a":`, 100000)+strings.Repeat("}", 100000)+`}`), 400, fault.BadJSON)
	refused(t, s.do("POST", "/encrypt", strings.Repeat("[", 1<<20)), 400, fault.BadJSON)
	refused(t, s.do("POST", "/encrypt", `{"x":`+strings.Repeat("[", 1<<20)), 400, fault.UnknownField)
	refused(t, s.do("POST", "/encrypt", `{"plaintext":"AA=="}`), 404, fault.NoDefaultKey)
	refused(t, s.do("GET", "/keys/"+strings.Repeat("k", 4000), ""), 404, fault.KeyNotFound)
	refused(t, s.do("GET", "/keys/%00", ""), 404, fault.KeyNotFound)
	refused(t, s.do("POST", "/keys", `{"name":"a","algorithm":"ROT-13"}`), 400, fault.BadAlgorithm)
	refused(t, s.do("POST", "/keys", `{"name":" ","algorithm":"AES-256-GCM"}`), 400, fault.BadName)
	refused(t, s.do("POST", "/keys", `{"name":"a","algorithm":"AES-256-GCM","policy":{"rotation_period":"soon"}}`), 400, fault.BadField)
}

// The benchmarks of the whole service, durable audit included, with many callers at once.

func benchmarkService(b *testing.B, items int) {
	s := newService(b)
	call1[wire.Key](s, "POST", "/keys", wire.CreateKey{Name: "a", Algorithm: "AES-256-GCM"})
	body := plaintexts(items)
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if w := s.do("POST", "/keys/a/encrypt", body); w.Code != 200 {
				b.Error(w.Body)
				return
			}
		}
	})
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*items), "ns/item")
}

func BenchmarkServiceEncryptSingle(b *testing.B)   { benchmarkService(b, 1) }
func BenchmarkServiceEncryptBatch100(b *testing.B) { benchmarkService(b, 100) }

func encode(v any) ([]byte, error) { return json.Marshal(v, encodeOptions) }
