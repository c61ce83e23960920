package keys_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"fmt"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/keys"
)

// TestSignatures has the standard library judge what is signed, and Verify what the standard library signs is judged in package verify.
func TestSignatures(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	msg := []byte("a message")
	for _, alg := range []backend.Algorithm{backend.ECDSAP256, backend.ECDSAP384, backend.ECDSAP521, backend.RSA2048, backend.Ed25519, backend.Ed448} {
		e.create(string(alg), alg)
		v, err := e.Version(ctx, e.c, string(alg), 0)
		if err != nil {
			t.Fatal(err)
		}
		pub, err := keyenc.ParseSPKI(v.Public)
		if err != nil {
			t.Fatal(err)
		}
		t256, t512 := sha256.Sum256(msg), sha512.Sum512(msg)
		cases := []struct {
			o      keys.SignOpts
			digest []byte
			judge  func(sig []byte) bool
		}{}
		add := func(o keys.SignOpts, d []byte, judge func([]byte) bool) {
			cases = append(cases, struct {
				o      keys.SignOpts
				digest []byte
				judge  func(sig []byte) bool
			}{o, d, judge})
		}
		switch k := pub.(type) {
		case *ecdsa.PublicKey:
			add(keys.SignOpts{Hash: crypto.SHA256}, t256[:], func(s []byte) bool { return ecdsa.VerifyASN1(k, t256[:], s) })
			add(keys.SignOpts{Hash: crypto.SHA512, P1363: true}, t512[:], func(s []byte) bool {
				der, err := keyenc.P1363ToDER(s, (k.Curve.Params().BitSize+7)/8)
				return err == nil && ecdsa.VerifyASN1(k, t512[:], der)
			})
		case *rsa.PublicKey:
			add(keys.SignOpts{}, t256[:], func(s []byte) bool {
				return rsa.VerifyPSS(k, crypto.SHA256, t256[:], s, &rsa.PSSOptions{SaltLength: 32}) == nil
			})
			add(keys.SignOpts{Hash: crypto.SHA512, Padding: backend.PaddingPKCS1v15}, t512[:], func(s []byte) bool {
				return rsa.VerifyPKCS1v15(k, crypto.SHA512, t512[:], s) == nil
			})
		case ed25519.PublicKey:
			add(keys.SignOpts{}, nil, func(s []byte) bool { return ed25519.Verify(k, msg, s) })
		default:
			add(keys.SignOpts{}, nil, func([]byte) bool { return true }) // Ed448: Verify below is the judge
		}
		for _, c := range cases {
			items := []keys.SignItem{{Message: msg}}
			if c.digest != nil {
				items = append(items, keys.SignItem{Digest: c.digest})
			}
			sigs, err := e.Sign(ctx, e.c, keys.Target{Key: string(alg)}, c.o, items, false)
			if err != nil {
				t.Fatalf("%s %+v: %v", alg, c.o, err)
			}
			for _, s := range sigs {
				if s.Err != nil || !c.judge(s.Bytes) {
					t.Errorf("%s %+v: not a signature: %v", alg, c.o, s.Err)
				}
				bad := bytes.Clone(s.Bytes)
				bad[len(bad)-1] ^= 1
				v, err := e.Verify(ctx, e.c, keys.Target{Key: string(alg)}, c.o, []keys.VerifyItem{{Message: msg, Signature: s.Bytes}, {Message: msg, Signature: bad},
					{Message: []byte("another"), Signature: s.Bytes}, {Message: msg}}, false)
				if err != nil || !v[0].Valid || v[1].Valid || v[2].Valid || v[3].Valid || v[3].Err != nil {
					t.Errorf("%s %+v: verify says %+v %v", alg, c.o, v, err)
				}
			}
		}
	}
	refusals := []struct {
		key  string
		o    keys.SignOpts
		item keys.SignItem
		code fault.Code
	}{
		{"ECDSA-P256", keys.SignOpts{Hash: crypto.SHA1}, keys.SignItem{Message: msg}, fault.BadField},
		{"ECDSA-P256", keys.SignOpts{Padding: backend.PaddingPSS}, keys.SignItem{Message: msg}, fault.BadField},
		{"ECDSA-P256", keys.SignOpts{}, keys.SignItem{Digest: make([]byte, 31)}, fault.BadSize},
		{"ECDSA-P256", keys.SignOpts{}, keys.SignItem{}, fault.MissingField},
		{"ECDSA-P256", keys.SignOpts{}, keys.SignItem{Message: msg, Digest: make([]byte, 32)}, fault.MissingField},
		{"ECDSA-P256", keys.SignOpts{}, keys.SignItem{Message: make([]byte, keys.MaxPlaintext+1)}, fault.BadSize},
		{"RSA-2048", keys.SignOpts{P1363: true}, keys.SignItem{Message: msg}, fault.BadField},
		{"RSA-2048", keys.SignOpts{Padding: "none"}, keys.SignItem{Message: msg}, fault.BadField},
		{"Ed25519", keys.SignOpts{Hash: crypto.SHA512}, keys.SignItem{Message: msg}, fault.BadField},
		{"Ed25519", keys.SignOpts{}, keys.SignItem{Digest: make([]byte, 64)}, fault.BadField},
	}
	for i, r := range refusals {
		_, err := e.Sign(ctx, e.c, keys.Target{Key: r.key}, r.o, []keys.SignItem{r.item}, true)
		wantCode(t, err, r.code, fmt.Sprint("refusal ", i))
	}
}

func TestMAC(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	p, err := e.ImportParameters(ctx, e.c, "")
	if err != nil {
		t.Fatal(err)
	}
	key := bytes.Repeat([]byte{7}, 32)
	if _, err := e.Import(ctx, e.c, keys.ImportRequest{Create: keys.CreateRequest{Name: "m", Algorithm: backend.HMACSHA256}, Token: p.Token, Wrapped: wrapFor(t, p, key)}); err != nil {
		t.Fatal(err)
	}
	r, err := e.MAC(ctx, e.c, keys.Target{Key: "m"}, []keys.MACItem{{Message: []byte("m")}}, true)
	if err != nil {
		t.Fatal(err)
	}
	want := hmac.New(sha256.New, key)
	want.Write([]byte("m"))
	tag := want.Sum(nil)
	if !bytes.Equal(r[0].Bytes, tag) {
		t.Error("the tag is not that of RFC 2104")
	}
	bad := bytes.Clone(tag)
	bad[0] ^= 1
	v, err := e.VerifyMAC(ctx, e.c, keys.Target{Key: "m"}, []keys.MACItem{{Message: []byte("m"), MAC: tag}, {Message: []byte("m"), MAC: bad}, {Message: []byte("m"), MAC: tag[:16]},
		{Message: []byte("m")}}, false)
	if err != nil || !v[0].Valid || v[1].Valid || v[2].Valid || !fault.Has(v[3].Err, fault.MissingField) {
		t.Errorf("%+v %v", v, err)
	}
}

// TestDerive agrees with the standard library on the other side, for each form of the peer's key.
func TestDerive(t *testing.T) {
	e := newEnv(t, nil)
	ctx := t.Context()
	for alg, curve := range map[backend.Algorithm]ecdh.Curve{backend.ECDHP256: ecdh.P256(), backend.ECDHP384: ecdh.P384(), backend.ECDHP521: ecdh.P521(), backend.X25519: ecdh.X25519()} {
		e.create(string(alg), alg)
		v, err := e.Version(ctx, e.c, string(alg), 0)
		if err != nil {
			t.Fatal(err)
		}
		pub, err := keyenc.ParseSPKI(v.Public)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := keyenc.MarshalRaw(pub)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := curve.NewPublicKey(raw)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := curve.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		spki, err := x509.MarshalPKIXPublicKey(peer.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		shared, err := peer.ECDH(ours)
		if err != nil {
			t.Fatal(err)
		}
		want, err := hkdf.Key(sha512.New, shared, []byte("salt"), "info", 48)
		if err != nil {
			t.Fatal(err)
		}
		item := keys.DeriveItem{Salt: []byte("salt"), Info: []byte("info"), Hash: crypto.SHA512, Length: 48}
		items := []keys.DeriveItem{item, item, item, item}
		items[0].Peer, items[1].Peer, items[2].Peer, items[3].Peer = spki, peer.PublicKey().Bytes(), make([]byte, len(raw)), []byte("x")
		r, err := e.Derive(ctx, e.c, keys.Target{Key: string(alg)}, items, false)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			if r[i].Err != nil || !bytes.Equal(r[i].Bytes, want) {
				t.Errorf("%s, form %d: %v", alg, i, r[i].Err)
			}
		}
		wantCode(t, r[2].Err, fault.BadField, string(alg)+": a point that is none")
		wantCode(t, r[3].Err, fault.BadField, string(alg)+": garbage")
	}
}
