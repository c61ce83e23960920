package api

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/mlkem"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/keywright/keywright/api/qpher"
	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/pqc"
)

// qpherOf sends a request that must succeed with the status and decodes its data strictly.
func qpherOf[T any](s *service, method, path, body string, status int) T {
	s.t.Helper()
	w := s.do(method, path, body)
	var r wire.Response[T]
	if err := json.Unmarshal(w.Body.Bytes(), &r, json.RejectUnknownMembers(true)); err != nil || w.Code != status {
		s.t.Fatalf("%s %s: %d %s %v", method, path, w.Code, w.Body, err)
	}
	if !regexp.MustCompile(`"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"}$`).Match(w.Body.Bytes()) {
		s.t.Errorf("the timestamp has no milliseconds: %s", w.Body)
	}
	return r.Data
}

// turnedDown sends a request that must fail.
func (s *service) turnedDown(method, path, body string, status int, code string, as ...string) {
	s.t.Helper()
	refusedQpher(s.t, s.do(method, path, body, as...), status, code)
}

func refusedQpher(t testing.TB, w *httptest.ResponseRecorder, status int, code string) {
	t.Helper()
	refusedAs(t, w, status, code)
	listed := slices.ContainsFunc(qpher.Errors(), func(e qpher.Error) bool { return e.Code == code && e.Status == status })
	if !listed {
		t.Errorf("%s with status %d is in no documentation", code, status)
	}
}

// qpherBody makes a request body of names and values.
func qpherBody(pairs ...any) string {
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1]
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // of strings, numbers and bytes: cannot be
	}
	return string(b)
}

func (s *service) generate(algorithm string) qpher.Key {
	s.t.Helper()
	return qpherOf[qpher.Key](s, "POST", "/kms/keys/generate", qpherBody("algorithm", algorithm), 201)
}

// TestQpherKeys goes through the life of a key: generate, rotate, retire, and what is shown of it here and by the native API.
func TestQpherKeys(t *testing.T) {
	for _, a := range []struct {
		name, native string
		size         int
	}{{"Kyber768", "ML-KEM-768", 1184}, {"X-Wing", "X-Wing", 1216}, {"Dilithium3", "ML-DSA-65", 1952}, {"Composite-ML-DSA", "MLDSA65-ECDSA-P256-SHA512", 1952 + 65}} {
		t.Run(a.name, func(t *testing.T) {
			s := newService(t)
			s.t = t
			q := "?algorithm=" + a.name
			named := qpherBody("algorithm", a.name)
			s.turnedDown("GET", "/kms/keys/active"+q, "", 404, "ERR_NOT_FOUND_001")
			s.turnedDown("GET", "/kms/keys/1"+q, "", 404, "ERR_NOT_FOUND_001")
			s.turnedDown("POST", "/kms/keys/rotate", named, 404, "ERR_NOT_FOUND_001")
			s.turnedDown("POST", "/kms/keys/retire", qpherBody("algorithm", a.name, "key_version", 1), 404, "ERR_NOT_FOUND_001")
			if l := qpherOf[qpher.KeyList](s, "GET", "/kms/keys", "", 200); l.Total != 0 || l.Keys == nil {
				t.Errorf("%+v", l)
			}
			first := s.generate(a.name)
			if first.KeyVersion != 1 || first.Algorithm != a.name || first.Status != "active" || len(first.PublicKey) != a.size ||
				!regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`).MatchString(first.CreatedAt) {
				t.Errorf("%+v", first)
			}
			s.turnedDown("POST", "/kms/keys/generate", named, 409, "ERR_CONFLICT_001")
			r := qpherOf[qpher.Rotated](s, "POST", "/kms/keys/rotate", named, 200)
			if r.KeyVersion != 2 || r.OldKeyVersion != 1 || r.Algorithm != a.name || bytes.Equal(r.PublicKey, first.PublicKey) {
				t.Errorf("%+v", r)
			}
			active := qpherOf[qpher.Key](s, "GET", "/kms/keys/active"+q, "", 200)
			if active.KeyVersion != 2 || active.Status != "active" || !bytes.Equal(active.PublicKey, r.PublicKey) {
				t.Errorf("%+v", active)
			}
			old := qpherOf[qpher.Key](s, "GET", "/kms/keys/1"+q, "", 200)
			if old.Status != "retired" || !bytes.Equal(old.PublicKey, first.PublicKey) || old.CreatedAt != first.CreatedAt {
				t.Errorf("%+v", old)
			}
			for range 2 { // the second time nothing is left to do
				gone := qpherOf[qpher.Key](s, "POST", "/kms/keys/retire", qpherBody("algorithm", a.name, "key_version", 2), 200)
				if gone.Status != "retired" || gone.KeyVersion != 2 {
					t.Errorf("%+v", gone)
				}
			}
			s.turnedDown("GET", "/kms/keys/active"+q, "", 404, "ERR_NOT_FOUND_001")
			s.turnedDown("POST", "/kms/keys/rotate", named, 404, "ERR_NOT_FOUND_001")
			if third := s.generate(a.name); third.KeyVersion != 3 {
				t.Errorf("%+v", third)
			}
			// The same key, natively: suspended there it is archived here, and comes back.
			k := call1[wire.Key](s, "GET", "/keys/qpher%2F"+a.name, nil)
			if k.Algorithm != a.native || k.PrimaryVersion != 3 || k.Name != "qpher/"+a.name {
				t.Errorf("%+v", k)
			}
			call1[wire.KeyVersion](s, "POST", "/keys/qpher%2F"+a.name+"/versions/1/state", `{"state":"suspended"}`)
			if v := qpherOf[qpher.Key](s, "GET", "/kms/keys/1"+q, "", 200); v.Status != "archived" {
				t.Errorf("%+v", v)
			}
			s.turnedDown("POST", "/kms/keys/retire", qpherBody("algorithm", a.name, "key_version", 1), 409, "ERR_CONFLICT_001")
			for status, want := range map[string][]int64{"": {1, 2, 3}, "active": {3}, "retired": {2}, "archived": {1}} {
				l := qpherOf[qpher.KeyList](s, "GET", "/kms/keys"+q+map[bool]string{true: "&status=" + status}[status != ""], "", 200)
				var got []int64
				for _, k := range l.Keys {
					got = append(got, k.KeyVersion)
				}
				if !slices.Equal(got, want) || l.Total != len(want) {
					t.Errorf("status %q: versions %v, total %d", status, got, l.Total)
				}
			}
			// A rotation by the native API is one here.
			call1[wire.Key](s, "POST", "/keys/qpher%2F"+a.name+"/rotate", nil)
			if v := qpherOf[qpher.Key](s, "GET", "/kms/keys/active"+q, "", 200); v.KeyVersion != 4 {
				t.Errorf("%+v", v)
			}
			s.turnedDown("GET", "/kms/keys/5"+q, "", 404, "ERR_NOT_FOUND_001")
			s.turnedDown("GET", "/kms/keys/4294967297"+q, "", 404, "ERR_NOT_FOUND_001")
			s.turnedDown("GET", "/kms/keys/0"+q, "", 400, "ERR_INVALID_001")
			s.turnedDown("GET", "/kms/keys/one"+q, "", 400, "ERR_INVALID_001")
		})
	}
}

// TestQpherForeignName: a key that somebody has made under a reserved name with another algorithm is none of this API.
func TestQpherForeignName(t *testing.T) {
	s := newService(t)
	call1[wire.Key](s, "POST", "/keys", wire.CreateKey{Name: "qpher/Kyber768", Algorithm: "ML-KEM-1024"})
	s.turnedDown("POST", "/kms/keys/generate", `{"algorithm":"Kyber768"}`, 409, "ERR_CONFLICT_001")
	s.turnedDown("POST", "/kms/keys/rotate", `{"algorithm":"Kyber768"}`, 404, "ERR_NOT_FOUND_001")
	s.turnedDown("POST", "/kms/keys/retire", `{"algorithm":"Kyber768","key_version":1}`, 404, "ERR_NOT_FOUND_001")
	s.turnedDown("GET", "/kms/keys/active?algorithm=Kyber768", "", 404, "ERR_NOT_FOUND_001")
	s.turnedDown("GET", "/kms/keys/1?algorithm=Kyber768", "", 404, "ERR_NOT_FOUND_001")
	s.turnedDown("POST", "/kem/encrypt", `{"plaintext":"AAEC","key_version":1}`, 404, "ERR_KEM_005")
	s.turnedDown("POST", "/kem/encapsulate", `{"key_version":1}`, 404, "ERR_KEM_005")
	if l := qpherOf[qpher.KeyList](s, "GET", "/kms/keys", "", 200); l.Total != 0 {
		t.Errorf("%+v", l)
	}
}

// TestQpherKEM: every operation, on every version, in every status.
func TestQpherKEM(t *testing.T) {
	for _, a := range []struct {
		name string
		ct   int
	}{{"Kyber768", 1088}, {"X-Wing", 1120}} {
		t.Run(a.name, func(t *testing.T) {
			s := newService(t)
			s.t = t
			s.generate(a.name)
			post := func(path string, pairs ...any) (string, string) {
				return "/kem/" + path, qpherBody(append(pairs, "key_version", 1, "algorithm", a.name)...)
			}
			plaintext, symmetric := []byte("attack at dawn"), make([]byte, 32)
			salt := bytes.Repeat([]byte{7}, 32)
			path, body := post("encrypt", "plaintext", plaintext)
			ct := qpherOf[qpher.Ciphertext](s, "POST", path, body, 200)
			if len(ct.Ciphertext) != a.ct+12+len(plaintext)+16 || ct.KeyVersion != 1 || ct.Algorithm != a.name || ct.KeyState != "" {
				t.Errorf("%d bytes, %+v", len(ct.Ciphertext), ct.Used)
			}
			path, body = post("encapsulate")
			enc := qpherOf[qpher.Encapsulation](s, "POST", path, body, 200)
			if len(enc.KEMCiphertext) != a.ct || len(enc.SharedSecret) != 32 {
				t.Errorf("%d and %d bytes", len(enc.KEMCiphertext), len(enc.SharedSecret))
			}
			path, body = post("key/wrap", "symmetric_key", symmetric)
			wrapped := qpherOf[qpher.WrappedKey](s, "POST", path, body, 200)
			if wrapped.WrappingMethod != "KEM-DEM" || len(wrapped.WrappedKey) != a.ct+12+32+16 {
				t.Errorf("%+v", wrapped)
			}
			path, body = post("encrypt", "plaintext", plaintext, "mode", "deterministic", "salt", salt)
			same := qpherOf[qpher.Ciphertext](s, "POST", path, body, 200)
			if again := qpherOf[qpher.Ciphertext](s, "POST", path, body, 200); !bytes.Equal(again.Ciphertext, same.Ciphertext) {
				t.Error("deterministic mode gave two ciphertexts")
			}
			if path, body = post("encrypt", "plaintext", plaintext, "mode", "standard"); bytes.Equal(qpherOf[qpher.Ciphertext](s, "POST", path, body, 200).Ciphertext, ct.Ciphertext) {
				t.Error("two ciphertexts are the same")
			}
			opens := func(status string) {
				t.Helper()
				for _, c := range [][]byte{ct.Ciphertext, same.Ciphertext} {
					path, body := post("decrypt", "ciphertext", c)
					if p := qpherOf[qpher.Plaintext](s, "POST", path, body, 200); !bytes.Equal(p.Plaintext, plaintext) {
						t.Errorf("%s: decrypted to something else", status)
					}
				}
				path, body := post("decapsulate", "kem_ciphertext", enc.KEMCiphertext)
				if p := qpherOf[qpher.SharedSecret](s, "POST", path, body, 200); !bytes.Equal(p.SharedSecret, enc.SharedSecret) {
					t.Errorf("%s: decapsulated to something else", status)
				}
				for _, spelling := range []string{"key/unwrap", "unwrap"} {
					path, body := post(spelling, "wrapped_key", wrapped.WrappedKey)
					if p := qpherOf[qpher.SymmetricKey](s, "POST", path, body, 200); !bytes.Equal(p.SymmetricKey, symmetric) {
						t.Errorf("%s: unwrapped to something else", status)
					}
				}
			}
			refuses := func(protecting, processing bool) {
				t.Helper()
				for p, pairs := range map[string][]any{"encrypt": {"plaintext", plaintext}, "encapsulate": nil, "key/wrap": {"symmetric_key", symmetric}, "wrap": {"symmetric_key", symmetric}} {
					if path, body := post(p, pairs...); protecting {
						s.turnedDown("POST", path, body, 404, "ERR_KEM_005")
					}
				}
				for p, pairs := range map[string][]any{"decrypt": {"ciphertext", ct.Ciphertext}, "decapsulate": {"kem_ciphertext", enc.KEMCiphertext}, "key/unwrap": {"wrapped_key", wrapped.WrappedKey}} {
					if path, body := post(p, pairs...); processing {
						s.turnedDown("POST", path, body, 404, "ERR_KEM_005")
					}
				}
			}
			opens("active")
			qpherOf[qpher.Rotated](s, "POST", "/kms/keys/rotate", qpherBody("algorithm", a.name), 200)
			opens("retired")
			refuses(true, false)
			state := func(to string) {
				call1[wire.KeyVersion](s, "POST", "/keys/qpher%2F"+a.name+"/versions/1/state", `{"state":"`+to+`"}`)
			}
			state("suspended")
			refuses(true, true)
			state("compromised")
			refuses(true, false)
			path, body = post("decrypt", "ciphertext", ct.Ciphertext)
			if p := qpherOf[qpher.Plaintext](s, "POST", path, body, 200); p.KeyState != "compromised" {
				t.Errorf("a compromised version does not say so: %+v", p.Used)
			}
			// What one version made, another does not open; nor does anything else, and every time it is the same.
			var seen []string
			for p, name := range map[string]string{"decrypt": "ciphertext", "key/unwrap": "wrapped_key", "unwrap": "wrapped_key"} {
				for _, bad := range [][]byte{ct.Ciphertext, wrapped.WrappedKey, {}, {1}, ct.Ciphertext[:a.ct], make([]byte, 2000)} {
					w := s.do("POST", "/kem/"+p, qpherBody(name, bad, "key_version", 2, "algorithm", a.name))
					refusedQpher(t, w, 400, "ERR_KEM_002")
					seen = append(seen, regexp.MustCompile(`"request_id.*`).ReplaceAllString(w.Body.String(), ""))
				}
			}
			w := s.do("POST", "/kem/decapsulate", qpherBody("kem_ciphertext", []byte{1}, "key_version", 2, "algorithm", a.name))
			seen = append(seen, regexp.MustCompile(`"request_id.*`).ReplaceAllString(w.Body.String(), ""))
			if len(slices.Compact(seen)) != 1 {
				t.Errorf("failures differ: %v", slices.Compact(seen))
			}
			// A plaintext that was no key is not unwrapped.
			path, body = post("key/unwrap", "wrapped_key", ct.Ciphertext)
			s.turnedDown("POST", path, body, 400, "ERR_KEM_002")
		})
	}
}

// TestQpherLocalEnvelope does what the client does by itself: AES-256-GCM right under the shared secret, with the KEM ciphertext as associated
// data; and it encapsulates with the standard library to the public key that is shown.
func TestQpherLocalEnvelope(t *testing.T) {
	s := newService(t)
	k := s.generate("Kyber768")
	gcm := func(secret []byte) cipher.AEAD {
		block, err := aes.NewCipher(secret)
		if err != nil {
			t.Fatal(err)
		}
		a, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	e := qpherOf[qpher.Encapsulation](s, "POST", "/kem/encapsulate", `{"key_version":1}`, 200)
	iv := make([]byte, 12)
	rand.Read(iv)
	sealed := gcm(e.SharedSecret).Seal(nil, iv, []byte("local"), e.KEMCiphertext)
	d := qpherOf[qpher.SharedSecret](s, "POST", "/kem/decapsulate", qpherBody("kem_ciphertext", e.KEMCiphertext, "key_version", 1), 200)
	if pt, err := gcm(d.SharedSecret).Open(nil, iv, sealed, e.KEMCiphertext); err != nil || string(pt) != "local" {
		t.Errorf("%q %v", pt, err)
	}
	peer, err := mlkem.NewEncapsulationKey768(k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	secret, ct := peer.Encapsulate()
	if d := qpherOf[qpher.SharedSecret](s, "POST", "/kem/decapsulate", qpherBody("kem_ciphertext", ct, "key_version", 1), 200); !bytes.Equal(d.SharedSecret, secret) {
		t.Error("the standard library has another secret")
	}
	// The native API opens what is encrypted here, in the format that it names.
	c := qpherOf[qpher.Ciphertext](s, "POST", "/kem/encrypt", qpherBody("plaintext", []byte("both"), "key_version", 1), 200)
	p := call1[wire.Plaintext](s, "POST", "/keys/qpher%2FKyber768/decrypt", wire.Decrypt{Format: "kem-dem", DecryptItem: wire.DecryptItem{Ciphertext: c.Ciphertext}})
	if string(p.Plaintext) != "both" {
		t.Errorf("natively: %q", p.Plaintext)
	}
}

func TestQpherSignatures(t *testing.T) {
	for name, native := range map[string]string{"Dilithium3": pqc.MLDSA65, "Composite-ML-DSA": pqc.MLDSA65P256} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			s.t = t
			key := s.generate(name)
			message := []byte("pay to the bearer")
			with := func(pairs ...any) string { return qpherBody(append(pairs, "key_version", 1, "algorithm", name)...) }
			sig := qpherOf[qpher.Signature](s, "POST", "/signature/sign", with("message", message), 200)
			if name == "Dilithium3" && len(sig.Signature) != 3309 {
				t.Errorf("the signature has %d bytes", len(sig.Signature))
			}
			alg, ok := pqc.Lookup(native)
			if !ok {
				t.Fatal(native)
			}
			pub, err := alg.ParsePublicKey(key.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := pub.Verify(message, sig.Signature, pqc.SignOptions{}); !ok || err != nil {
				t.Errorf("not a signature of the standard: %v", err)
			}
			digests := map[string][]byte{}
			hashed := map[string][]byte{}
			sum256, sum384, sum512 := sha256.Sum256(message), sha512.Sum384(message), sha512.Sum512(message)
			digests["SHA-256"], digests["SHA-384"], digests["SHA-512"] = sum256[:], sum384[:], sum512[:]
			for h, d := range digests {
				r := qpherOf[qpher.HashSignature](s, "POST", "/signature/sign-hash", with("hash", d, "hash_algorithm", h), 200)
				if r.SignatureType != "detached" || r.HashAlgorithm != h || r.Algorithm != name {
					t.Errorf("%+v", r)
				}
				hashed[h] = r.Signature
				o := pqc.SignOptions{PreHash: pqc.PreHash(strings.Replace(h, "SHA-", "SHA2-", 1)), Digest: true}
				if name != "Dilithium3" {
					o = pqc.SignOptions{Context: []byte("keywright qpher sign-hash " + h)}
				}
				if ok, err := pub.Verify(d, r.Signature, o); !ok || err != nil {
					t.Errorf("%s: not what the page says: %v", h, err)
				}
			}
			check := func(valid bool, path string, body string) {
				t.Helper()
				if path == "verify" {
					if v := qpherOf[qpher.Validity](s, "POST", "/signature/verify", body, 200); v.Valid != valid || v.KeyVersion != 1 || v.Algorithm != name {
						t.Errorf("%+v", v)
					}
					return
				}
				if v := qpherOf[qpher.HashValidity](s, "POST", "/signature/verify-hash", body, 200); v.Valid != valid || v.HashAlgorithm == "" {
					t.Errorf("%+v", v)
				}
			}
			verifies := func() {
				t.Helper()
				check(true, "verify", with("message", message, "signature", sig.Signature))
				check(false, "verify", with("message", []byte("pay to the barer"), "signature", sig.Signature))
				check(false, "verify", with("message", message, "signature", []byte{}))
				check(false, "verify", with("message", message, "signature", hashed["SHA-256"]))
				check(false, "verify", with("message", digests["SHA-256"], "signature", hashed["SHA-256"]))
				for h, d := range digests {
					check(true, "verify-hash", with("hash", d, "hash_algorithm", h, "signature", hashed[h]))
					check(false, "verify-hash", with("hash", d, "hash_algorithm", h, "signature", sig.Signature))
				}
			}
			verifies()
			qpherOf[qpher.Key](s, "POST", "/kms/keys/retire", with(), 200)
			verifies()
			s.turnedDown("POST", "/signature/sign", with("message", message), 404, "ERR_NOT_FOUND_001")
			s.turnedDown("POST", "/signature/sign-hash", with("hash", digests["SHA-256"], "hash_algorithm", "SHA-256"), 404, "ERR_NOT_FOUND_001")
			call1[wire.KeyVersion](s, "POST", "/keys/qpher%2F"+name+"/versions/1/state", `{"state":"suspended"}`)
			s.turnedDown("POST", "/signature/verify", with("message", message, "signature", sig.Signature), 404, "ERR_NOT_FOUND_001")
		})
	}
}

// TestQpherRequests is the table of what is refused, and how. SDK clients decide by the status alone.
func TestQpherRequests(t *testing.T) {
	s := newService(t)
	for _, a := range qpher.Algorithms() {
		s.generate(a)
	}
	salt := b64(make([]byte, 32))
	long := b64(make([]byte, 1<<20+1))
	for _, c := range []struct {
		path, body string
		status     int
		code       string
	}{
		{"/kem/encrypt", `{`, 400, "ERR_INVALID_001"},
		{"/kem/encrypt", `{"plaintext":"AAEC","key_version":1,"extra":1}`, 400, "ERR_INVALID_001"},
		{"/kem/encrypt", `{"plaintext":"AA-_","key_version":1}`, 400, "ERR_INVALID_001"},
		{"/kem/encrypt", `{"plaintext":"AAE","key_version":1}`, 400, "ERR_INVALID_001"},
		{"/kem/encrypt", `{"plaintext":7,"key_version":1}`, 400, "ERR_INVALID_001"},
		{"/kem/encrypt", `{"plaintext":"AAEC","key_version":"1"}`, 400, "ERR_INVALID_001"},
		{"/kem/encrypt", `{"key_version":1}`, 400, "ERR_KEM_001"},
		{"/kem/encrypt", `{"plaintext":null,"key_version":1}`, 400, "ERR_KEM_001"},
		{"/kem/encrypt", `{"plaintext":"AAEC"}`, 400, "ERR_KEM_001"},
		{"/kem/encrypt", `{"plaintext":"AAEC","key_version":0}`, 400, "ERR_KEM_001"},
		{"/kem/encrypt", `{"plaintext":"AAEC","key_version":-1}`, 400, "ERR_KEM_001"},
		{"/kem/encrypt", `{"plaintext":"AAEC","key_version":1.5}`, 422, "ERR_INVALID_003"},
		{"/kem/encrypt", `{"plaintext":"AAEC","key_version":2}`, 404, "ERR_KEM_005"},
		{"/kem/encrypt", `{"plaintext":"AAEC","key_version":4294967297}`, 404, "ERR_KEM_005"},
		{"/kem/encrypt", `{"plaintext":"AAEC","key_version":1,"algorithm":"Dilithium3"}`, 422, "ERR_INVALID_003"},
		{"/kem/encrypt", `{"plaintext":"AAEC","key_version":1,"algorithm":"ML-KEM-768"}`, 422, "ERR_INVALID_003"},
		{"/kem/encrypt", `{"plaintext":"AAEC","key_version":1,"mode":"chaotic"}`, 422, "ERR_INVALID_003"},
		{"/kem/encrypt", `{"plaintext":"AAEC","key_version":1,"mode":"deterministic"}`, 400, "ERR_KEM_001"},
		{"/kem/encrypt", `{"plaintext":"AAEC","key_version":1,"mode":"deterministic","salt":"AAEC"}`, 422, "ERR_INVALID_003"},
		{"/kem/encrypt", `{"plaintext":"AAEC","key_version":1,"mode":"standard","salt":"` + salt + `"}`, 422, "ERR_INVALID_003"},
		{"/kem/encrypt", `{"plaintext":"` + long + `","key_version":1}`, 422, "ERR_INVALID_003"},
		{"/kem/encrypt", strings.Repeat(" ", 4<<20+1), 400, "ERR_INVALID_001"},
		{"/kem/decrypt", `{"key_version":1}`, 400, "ERR_KEM_001"},
		{"/kem/decrypt", `{"ciphertext":"AAEC"}`, 400, "ERR_KEM_001"},
		{"/kem/decrypt", `{"ciphertext":"AAEC","key_version":1}`, 400, "ERR_KEM_002"},
		{"/kem/decrypt", `{"ciphertext":"AAEC","key_version":9}`, 404, "ERR_KEM_005"},
		{"/kem/encapsulate", `{}`, 400, "ERR_KEM_001"},
		{"/kem/encapsulate", `{"key_version":9}`, 404, "ERR_KEM_005"},
		{"/kem/decapsulate", `{"key_version":1}`, 400, "ERR_KEM_001"},
		{"/kem/key/wrap", `{"key_version":1}`, 400, "ERR_KEM_001"},
		{"/kem/key/wrap", `{"symmetric_key":"AAEC","key_version":1}`, 422, "ERR_INVALID_003"},
		{"/kem/wrap", `{"symmetric_key":"","key_version":1}`, 422, "ERR_INVALID_003"},
		{"/kem/key/unwrap", `{"key_version":1}`, 400, "ERR_KEM_001"},
		{"/kem/unwrap", `{"wrapped_key":"` + salt + `","key_version":9}`, 404, "ERR_KEM_005"},
		{"/signature/sign", `{"key_version":1}`, 400, "ERR_SIG_001"},
		{"/signature/sign", `{"message":"AAEC"}`, 400, "ERR_SIG_001"},
		{"/signature/sign", `{"message":"AAEC","key_version":9}`, 404, "ERR_NOT_FOUND_001"},
		{"/signature/sign", `{"message":"AAEC","key_version":1,"algorithm":"Kyber768"}`, 422, "ERR_INVALID_003"},
		{"/signature/sign", `{"message":"` + long + `","key_version":1}`, 422, "ERR_INVALID_003"},
		{"/signature/verify", `{"message":"AAEC","key_version":1}`, 400, "ERR_SIG_001"},
		{"/signature/verify", `{"signature":"AAEC","key_version":1}`, 400, "ERR_SIG_001"},
		{"/signature/sign-hash", `{"hash":"` + salt + `","key_version":1}`, 400, "ERR_SIG_001"},
		{"/signature/sign-hash", `{"hash_algorithm":"SHA-256","key_version":1}`, 400, "ERR_SIG_001"},
		{"/signature/sign-hash", `{"hash":"` + salt + `","hash_algorithm":"SHA-512","key_version":1}`, 422, "ERR_INVALID_003"},
		{"/signature/sign-hash", `{"hash":"` + salt + `","hash_algorithm":"SHA-512","key_version":1,"algorithm":"Composite-ML-DSA"}`, 422, "ERR_INVALID_003"},
		{"/signature/sign-hash", `{"hash":"` + salt + `","hash_algorithm":"sha256","key_version":1}`, 422, "ERR_INVALID_003"},
		{"/signature/verify-hash", `{"hash":"` + salt + `","hash_algorithm":"SHA-256","key_version":1}`, 400, "ERR_SIG_001"},
		{"/signature/verify-hash", `{"hash":"` + salt + `","hash_algorithm":"SHA-384","signature":"AAEC","key_version":1}`, 422, "ERR_INVALID_003"},
		{"/kms/keys/generate", `{}`, 400, "ERR_INVALID_001"},
		{"/kms/keys/generate", `{"algorithm":"RSA"}`, 422, "ERR_INVALID_003"},
		{"/kms/keys/rotate", `{}`, 400, "ERR_INVALID_001"},
		{"/kms/keys/retire", `{"algorithm":"Kyber768"}`, 400, "ERR_INVALID_001"},
		{"/kms/keys/retire", `{"algorithm":"Kyber768","key_version":2}`, 404, "ERR_NOT_FOUND_001"},
	} {
		w := s.do("POST", c.path, c.body)
		if w.Code != c.status || !strings.Contains(w.Body.String(), `"`+c.code+`"`) {
			t.Errorf("%s %.100s", c.path, c.body)
		}
		refusedQpher(t, w, c.status, c.code)
	}
	s.turnedDown("GET", "/kms/keys/active", "", 400, "ERR_INVALID_001")
	s.turnedDown("GET", "/kms/keys/1", "", 400, "ERR_INVALID_001")
	s.turnedDown("GET", "/kms/keys/active?algorithm=RSA", "", 422, "ERR_INVALID_003")
	s.turnedDown("GET", "/kms/keys?algorithm=RSA", "", 422, "ERR_INVALID_003")
	s.turnedDown("GET", "/kms/keys?status=lost", "", 422, "ERR_INVALID_003")
	s.turnedDown("GET", "/kms/keys?page=2", "", 400, "ERR_INVALID_001")
	// Sizes at their limits are taken.
	w := s.do("POST", "/kem/encrypt", `{"plaintext":"`+b64(make([]byte, 1<<20))+`","key_version":1}`)
	var c wire.Response[qpher.Ciphertext]
	if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil || w.Code != 200 {
		t.Fatal(w.Code, err)
	}
	if p := qpherOf[qpher.Plaintext](s, "POST", "/kem/decrypt", qpherBody("ciphertext", c.Data.Ciphertext, "key_version", 1), 200); len(p.Plaintext) != 1<<20 {
		t.Errorf("%d bytes came back", len(p.Plaintext))
	}
	for _, n := range []int{16, 24, 32, 48, 64} {
		qpherOf[qpher.WrappedKey](s, "POST", "/kem/wrap", qpherBody("symmetric_key", make([]byte, n), "key_version", 1), 200)
	}
	qpherOf[qpher.Signature](s, "POST", "/signature/sign", `{"message":"","key_version":1}`, 200)
	qpherOf[qpher.Ciphertext](s, "POST", "/kem/encrypt", `{"plaintext":"","key_version":1,"algorithm":"","salt":"","mode":""}`, 200)
}

// TestQpherOrder: 401 before 403, 403 before everything that is wrong with the request or the key; and the policy of a key.
func TestQpherOrder(t *testing.T) {
	s := newService(t)
	made := call1[wire.APIKey](s, "POST", "/api-keys", wire.CreateAPIKey{Name: "reader", Scopes: []string{"audit:read"}, Brand: "qph"})
	if made.Brand != "qph" || !strings.HasPrefix(made.Key, "qph_") {
		t.Fatalf("%+v", made)
	}
	for _, row := range newRig(t, Limits{}).routes {
		if row.Qpher == "" {
			continue
		}
		path := strings.TrimPrefix(examplePath(&row), prefix)
		for _, body := range []string{`{"nonsense`, `{}`, `{"key_version":99}`} {
			if row.BodyLimit == 0 {
				body = ""
			}
			s.turnedDown(row.Method, path, body, 401, "ERR_AUTH_001", "qph_abcdefghijkl_0123456789012345678901234567890123456789012")
			s.turnedDown(row.Method, path, body, 401, "ERR_AUTH_001", "nothing")
			s.turnedDown(row.Method, path, body, 403, "ERR_FORBIDDEN_001", made.Key)
		}
	}
	w := s.do("POST", "/api-keys", `{"name":"n","scopes":["keys:read"],"brand":"other"}`)
	refused(t, w, 400, fault.BadField)
	// The policy of the key comes before its versions.
	s.generate("Kyber768")
	call1[wire.Key](s, "PATCH", "/keys/qpher%2FKyber768", `{"policy":{"operations":["decrypt"]}}`)
	s.turnedDown("POST", "/kem/encrypt", `{"plaintext":"AAEC","key_version":7}`, 403, "ERR_POLICY_001")
	s.turnedDown("POST", "/kem/key/wrap", qpherBody("symmetric_key", make([]byte, 16), "key_version", 1), 403, "ERR_POLICY_001")
	s.turnedDown("POST", "/kem/decrypt", `{"ciphertext":"AAEC","key_version":1}`, 400, "ERR_KEM_002")
	// Keys of which the tenant wants no more.
	call1[wire.KeySettings](s, "PUT", "/settings/keys", `{"new_keys":"hybrid"}`)
	s.turnedDown("POST", "/kms/keys/generate", `{"algorithm":"Dilithium3"}`, 403, "ERR_POLICY_001")
	s.generate("X-Wing")
	s.root.Close()
	s.turnedDown("GET", "/kms/keys", "", 503, "ERR_SERVICE_001")
}

// TestQpherAtOnce: whatever callers do at once, there is never more than one active version, no number comes twice, and of those who generate
// at once exactly one succeeds.
func TestQpherAtOnce(t *testing.T) {
	s := newService(t)
	const callers = 8
	at := func(do func() int) map[int]int {
		var mu sync.Mutex
		var wg sync.WaitGroup
		n := map[int]int{}
		for range callers {
			wg.Go(func() {
				code := do()
				mu.Lock()
				defer mu.Unlock()
				n[code]++
			})
		}
		wg.Wait()
		return n
	}
	generate := func() int { return s.do("POST", "/kms/keys/generate", `{"algorithm":"X-Wing"}`).Code }
	if got := at(generate); got[201] != 1 || got[409] != callers-1 {
		t.Errorf("generate: %v", got)
	}
	rotate := func() int { return s.do("POST", "/kms/keys/rotate", `{"algorithm":"X-Wing"}`).Code }
	if got := at(rotate); got[200] != callers {
		t.Errorf("rotate: %v", got)
	}
	if got := at(func() int {
		return s.do("POST", "/kms/keys/retire", qpherBody("algorithm", "X-Wing", "key_version", callers+1)).Code
	}); got[200] != callers {
		t.Errorf("retire: %v", got)
	}
	if got := at(generate); got[201] != 1 || got[409] != callers-1 {
		t.Errorf("generate again: %v", got)
	}
	l := qpherOf[qpher.KeyList](s, "GET", "/kms/keys", "", 200)
	active := 0
	for i, k := range l.Keys {
		if k.KeyVersion != int64(i+1) {
			t.Errorf("number %d is version %d", i, k.KeyVersion)
		}
		if k.Status == "active" {
			active++
		}
	}
	if active != 1 || l.Total != callers+2 {
		t.Errorf("%d active of %d", active, l.Total)
	}
}
