package keyenc_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywright/keywright/keyenc"
)

// openssl runs the command line tool, the independent judge of this file. That it is there is required, not hoped for.
func openssl(t *testing.T, stdin []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}

func keep(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestOpenSSLReadsOurs: openssl takes our PKCS#8 and finds our SPKI in it, and checks the key.
func TestOpenSSLReadsOurs(t *testing.T) {
	for _, p := range pairs(t) {
		der, err := keyenc.MarshalPKCS8(p.priv)
		if err != nil {
			t.Fatal(err)
		}
		spki, err := keyenc.MarshalSPKI(p.pub)
		if err != nil {
			t.Fatal(err)
		}
		got := openssl(t, der, "pkey", "-inform", "DER", "-check", "-pubout", "-outform", "DER")
		got = bytes.TrimPrefix(got, []byte("Key is valid\n"))
		if !bytes.Equal(got, spki) {
			t.Errorf("%s: openssl finds another public key", p.name)
		}
		if got := openssl(t, spki, "pkey", "-inform", "DER", "-pubin", "-outform", "DER"); !bytes.Equal(got, spki) {
			t.Errorf("%s: openssl writes our SPKI differently", p.name)
		}
		text, err := keyenc.MarshalPublicPEM(p.pub)
		if err != nil {
			t.Fatal(err)
		}
		if got := openssl(t, spki, "pkey", "-inform", "DER", "-pubin", "-outform", "PEM"); !bytes.Equal(got, text) {
			t.Errorf("%s: openssl writes other PEM", p.name)
		}
	}
}

// TestWeReadOpenSSL: we take keys that openssl made, in each of the forms in which it writes them.
func TestWeReadOpenSSL(t *testing.T) {
	for name, args := range map[string][]string{
		"RSA": {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"}, "Ed25519": {"-algorithm", "ED25519"},
		"Ed448": {"-algorithm", "ED448"}, "X25519": {"-algorithm", "X25519"}, "X448": {"-algorithm", "X448"},
		"P-256": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
		"P-384": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"},
		"P-521": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"},
	} {
		der := openssl(t, nil, append([]string{"genpkey", "-outform", "DER"}, args...)...)
		der = openssl(t, der, "pkcs8", "-topk8", "-nocrypt", "-inform", "DER", "-outform", "DER")
		spki := openssl(t, der, "pkey", "-inform", "DER", "-pubout", "-outform", "DER")
		forms := [][]byte{der}
		if strings.HasPrefix(name, "P-") {
			forms = append(forms,
				openssl(t, openssl(t, der, "ec", "-inform", "DER", "-outform", "DER", "-no_public"), "pkcs8", "-topk8", "-nocrypt", "-inform", "DER", "-outform", "DER"),
				openssl(t, openssl(t, der, "ec", "-inform", "DER", "-outform", "DER", "-conv_form", "compressed"), "pkcs8", "-topk8", "-nocrypt", "-inform", "DER", "-outform", "DER"))
		}
		for i, form := range forms {
			priv, err := keyenc.ParsePKCS8(form)
			if err != nil {
				t.Errorf("%s, form %d: %v", name, i, err)
				continue
			}
			pub, err := keyenc.PublicOf(priv)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := keyenc.MarshalSPKI(pub); err != nil || !bytes.Equal(got, spki) {
				t.Errorf("%s, form %d: the public key is another (%v)", name, i, err)
			}
		}
	}
	compressed := openssl(t, nil, "ecparam", "-name", "P-256", "-genkey", "-noout", "-outform", "DER", "-conv_form", "compressed")
	compressed = openssl(t, compressed, "ec", "-inform", "DER", "-pubout", "-outform", "DER", "-conv_form", "compressed")
	if _, err := keyenc.ParseSPKI(compressed); err == nil {
		t.Error("a compressed public key is taken: it would have two encodings")
	}
	explicit := openssl(t, nil, "ecparam", "-name", "P-256", "-genkey", "-noout", "-outform", "DER")
	explicit = openssl(t, explicit, "ec", "-inform", "DER", "-pubout", "-outform", "DER", "-param_enc", "explicit")
	if _, err := keyenc.ParseSPKI(explicit); err == nil {
		t.Error("explicit curve parameters are taken")
	}
}

// TestOpenSSLSignatures: a signature of openssl verifies after DERToP1363, and one of ours, through P1363ToDER, with openssl.
func TestOpenSSLSignatures(t *testing.T) {
	message := []byte("a message for two implementations")
	digest := sha256.Sum256(message)
	for _, p := range pairs(t) {
		k, ok := p.priv.(*ecdsa.PrivateKey)
		if !ok {
			continue
		}
		size := (k.Params().BitSize + 7) / 8
		pkcs8, err := keyenc.MarshalPKCS8(k)
		if err != nil {
			t.Fatal(err)
		}
		spki, err := keyenc.MarshalSPKI(&k.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		private, public := keep(t, "key", pkcs8), keep(t, "pub", spki)
		for range 4 { // the lengths of r and s differ
			der := openssl(t, message, "dgst", "-sha256", "-sign", private, "-keyform", "DER")
			sig, err := keyenc.DERToP1363(der, size)
			if err != nil || !verifyP1363(t, &k.PublicKey, digest[:], sig) {
				t.Errorf("%s: openssl's signature does not verify: %v", p.name, err)
			}
			r, s, err := ecdsa.Sign(rand.Reader, k, digest[:])
			if err != nil {
				t.Fatal(err)
			}
			ours, err := keyenc.P1363ToDER(append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...), size)
			if err != nil {
				t.Fatal(err)
			}
			if out := openssl(t, message, "dgst", "-sha256", "-verify", public, "-keyform", "DER", "-signature", keep(t, "sig", ours)); string(out) != "Verified OK\n" {
				t.Errorf("%s: openssl says %q", p.name, out)
			}
		}
	}
}

// wrapPad is openssl's own AES-KWP.
func wrapPad(t *testing.T, kek, in []byte, direction string) []byte {
	t.Helper()
	mode := map[int]string{16: "-id-aes128-wrap-pad", 24: "-id-aes192-wrap-pad", 32: "-id-aes256-wrap-pad"}[len(kek)]
	return openssl(t, in, "enc", direction, mode, "-K", hex.EncodeToString(kek), "-iv", "A65959A6")
}

func TestOpenSSLKWP(t *testing.T) {
	for _, size := range []int{16, 24, 32} {
		kek := filled(size)
		for _, n := range []int{1, 7, 8, 9, 15, 16, 17, 32, 57, 2375} {
			material := filled(n)
			ours, err := keyenc.KWPWrap(kek, material)
			if err != nil {
				t.Fatal(err)
			}
			if theirs := wrapPad(t, kek, material, "-e"); !bytes.Equal(ours, theirs) {
				t.Errorf("AES-%d, %d bytes are wrapped differently", size*8, n)
			}
			if back := wrapPad(t, kek, ours, "-d"); !bytes.Equal(back, material) {
				t.Errorf("AES-%d, %d bytes: openssl unwraps to something else", size*8, n)
			}
		}
	}
}

// TestOpenSSLRSAAES: openssl opens both parts of what we wrap, and we open what it wraps.
func TestOpenSSLRSAAES(t *testing.T) {
	k := rsaKey()
	pkcs8, err := keyenc.MarshalPKCS8(k)
	if err != nil {
		t.Fatal(err)
	}
	private := keep(t, "key", pkcs8)
	for name, h := range map[string]crypto.Hash{"sha1": crypto.SHA1, "sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512} {
		oaep := func(mode string, in []byte) []byte {
			return openssl(t, in, "pkeyutl", mode, "-inkey", private, "-keyform", "DER", "-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:"+name)
		}
		material := filled(48)
		wrapped, err := keyenc.WrapRSAAES(rand.Reader, &k.PublicKey, h, material)
		if err != nil {
			t.Fatal(err)
		}
		kek := oaep("-decrypt", wrapped[:k.Size()])
		if len(kek) != 32 || !bytes.Equal(wrapPad(t, kek, wrapped[k.Size():], "-d"), material) {
			t.Errorf("%s: openssl does not open our wrapping", name)
		}
		kek = filled(32)
		theirs := append(oaep("-encrypt", kek), wrapPad(t, kek, material, "-e")...)
		if back, err := keyenc.UnwrapRSAAES(rand.Reader, k.Size(), theirs, oaepBy(k, h), nil); err != nil || !bytes.Equal(back, material) {
			t.Errorf("%s: we do not open openssl's wrapping: %v", name, err)
		}
	}
}
