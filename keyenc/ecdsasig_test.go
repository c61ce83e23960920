package keyenc_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"math/big"
	"testing"

	"github.com/c2sp/wycheproof"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/keyenc"
)

// TestP1363RoundTrip: every pair of positive integers of the right size goes to the DER that encoding/asn1 gives, and back.
func TestP1363RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{32, 48, 66}).Draw(t, "size")
		number := rapid.Custom(func(t *rapid.T) []byte {
			n := rapid.IntRange(1, size).Draw(t, "length")
			b := rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "bytes")
			return new(big.Int).Add(new(big.Int).SetBytes(b[:n-1]), big.NewInt(1)).FillBytes(make([]byte, size))
		})
		sig := append(number.Draw(t, "r"), number.Draw(t, "s")...)
		der, err := keyenc.P1363ToDER(sig, size)
		if err != nil {
			t.Fatal(err)
		}
		want, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:size]), new(big.Int).SetBytes(sig[size:])})
		if err != nil || !bytes.Equal(der, want) {
			t.Fatalf("DER %x, want %x (%v)", der, want, err)
		}
		back, err := keyenc.DERToP1363(der, size)
		if err != nil || !bytes.Equal(back, sig) {
			t.Fatalf("%x came back as %x: %v", sig, back, err)
		}
	})
}

func TestP1363Limits(t *testing.T) {
	full := bytes.Repeat([]byte{0xff}, 132)
	for _, size := range []int{32, 48, 66} {
		der, err := keyenc.P1363ToDER(full[:2*size], size)
		if err != nil {
			t.Fatalf("the largest numbers of %d bytes: %v", size, err)
		}
		if back, err := keyenc.DERToP1363(der, size); err != nil || !bytes.Equal(back, full[:2*size]) {
			t.Errorf("size %d: %v", size, err)
		}
		if _, err := keyenc.DERToP1363(der, size-1); err == nil {
			t.Error("numbers that are too long are taken")
		}
	}
	for _, size := range []int{-1, 0, 67} {
		if _, err := keyenc.P1363ToDER(full[:64], size); err == nil {
			t.Errorf("size %d is taken", size)
		}
		if _, err := keyenc.DERToP1363([]byte{0x30, 6, 2, 1, 1, 2, 1, 1}, size); err == nil {
			t.Errorf("size %d is taken", size)
		}
	}
	one := append(make([]byte, 31), 1)
	for what, sig := range map[string][]byte{
		"nothing": nil, "an odd length": full[:63], "r of zero": append(make([]byte, 32), one...), "s of zero": append(bytes.Clone(one), make([]byte, 32)...),
	} {
		if _, err := keyenc.P1363ToDER(sig, 32); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	for what, der := range map[string]string{
		"nothing":             "",
		"negative r":          "3006020180020101",
		"zero r":              "3006020100020101",
		"a needless zero":     "300702020001020101",
		"an empty integer":    "30050200020101",
		"trailing data":       "300602010102010100",
		"data in the tail":    "3008020101020101" + "0500",
		"a long length":       "308106020101020101",
		"an indefinite form":  "30800201010201010000",
		"one integer":         "3003020101",
		"a set":               "3106020101020101",
		"a string for r":      "3006040101020101",
		"integer cut by tail": "3006020101020201",
	} {
		b, err := hex.DecodeString(der)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := keyenc.DERToP1363(b, 32); err == nil {
			t.Errorf("%s is taken as %x", what, out)
		}
	}
}

// TestWycheproofDER: signatures that must not verify are refused by the conversion or by the verification of what it gives.
func TestWycheproofDER(t *testing.T) {
	text, err := fs.ReadFile(wycheproof.TestVectors, "ecdsa_secp256r1_sha256_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		TestGroups []struct {
			PublicKeyDer string
			Tests        []struct {
				TcID                      int
				Comment, Msg, Sig, Result string
			}
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, g := range file.TestGroups {
		pub, err := keyenc.ParseSPKI(unhex(t, g.PublicKeyDer))
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range g.Tests {
			digest := sha256.Sum256(unhex(t, v.Msg))
			sig, err := keyenc.DERToP1363(unhex(t, v.Sig), 32)
			ok := err == nil && verifyP1363(t, pub, digest[:], sig)
			if ok != (v.Result == "valid") {
				t.Errorf("vector %d (%s): %v, the vector is %s", v.TcID, v.Comment, ok, v.Result)
			}
			ran++
		}
	}
	if ran < 400 {
		t.Errorf("only %d vectors", ran)
	}
}

func verifyP1363(t testing.TB, pub crypto.PublicKey, digest, sig []byte) bool {
	t.Helper()
	n := len(sig) / 2
	return ecdsa.Verify(pub.(*ecdsa.PublicKey), digest, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:]))
}
