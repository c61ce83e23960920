package pqc

import (
	"bytes"
	"crypto/sha3"
	"testing"

	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"
)

func TestACVPMLKEM(t *testing.T) {
	const dir = "kem/mlkem/testdata/ML-KEM-"
	n := 0
	acvpPair(t, dir+"keyGen-FIPS203/prompt.json.gz", dir+"keyGen-FIPS203/expectedResults.json.gz",
		func(t *testing.T, g *acvpGroup, in, want *acvpCase) {
			n++
			k, err := lookup(t, g.ParameterSet).NewPrivateKey(append(bytes.Clone(in.D), in.Z...))
			if err != nil {
				t.Fatal(err)
			}
			dk, err := k.Expanded()
			if err != nil || !bytes.Equal(dk, want.DK) || !bytes.Equal(k.PublicKey().Bytes(), want.EK) {
				t.Errorf("%s %d: %v", g.ParameterSet, in.ID, err)
			}
		})
	acvpPair(t, dir+"encapDecap-FIPS203/prompt.json.gz", dir+"encapDecap-FIPS203/expectedResults.json.gz",
		func(t *testing.T, g *acvpGroup, in, want *acvpCase) {
			n++
			alg := lookup(t, g.ParameterSet)
			if g.Function == "encapsulation" {
				p, err := alg.ParsePublicKey(in.EK)
				if err != nil {
					t.Fatal(err)
				}
				ct, ss, err := encapsulateWith(t, p, in.M)
				if err != nil || !bytes.Equal(ct, want.C) || !bytes.Equal(ss, want.K) {
					t.Errorf("%s %d: %v", g.ParameterSet, in.ID, err)
				}
				return
			}
			// These have expanded keys, and changed ciphertexts among the others.
			s := alg.scheme.(circlKEM)
			sk, err := s.UnmarshalBinaryPrivateKey(g.DK)
			if err != nil {
				t.Fatal(err)
			}
			ss, err := (&circlKEMPrivate{s.Scheme, sk}).decapsulate(in.C)
			if err != nil || !bytes.Equal(ss, want.K) {
				t.Errorf("%s %d: %v", g.ParameterSet, in.ID, err)
			}
		})
	if n < 180 {
		t.Errorf("only %d vectors", n)
	}
}

// TestACVPMLDSA: the vectors of the internal functions, which are these of circl's module, have M' as their message: they are run by their
// message representative.
func TestACVPMLDSA(t *testing.T) {
	const dir = "sign/mldsa/testdata/ML-DSA-"
	n := 0
	acvpPair(t, dir+"keyGen-FIPS204/prompt.json.gz", dir+"keyGen-FIPS204/expectedResults.json.gz",
		func(t *testing.T, g *acvpGroup, in, want *acvpCase) {
			n++
			k, err := lookup(t, g.ParameterSet).NewPrivateKey(in.Seed)
			if err != nil {
				t.Fatal(err)
			}
			sk, err := k.Expanded()
			if err != nil || !bytes.Equal(sk, want.SK) || !bytes.Equal(k.PublicKey().Bytes(), want.PK) {
				t.Errorf("%s %d: %v", g.ParameterSet, in.ID, err)
			}
		})
	internalMu := func(public, message []byte) []byte {
		tr := hashTR(public)
		mu := make([]byte, MuSize)
		h := sha3.NewSHAKE256()
		h.Write(tr[:])
		h.Write(message)
		h.Read(mu)
		return mu
	}
	accepted := 0
	acvpPair(t, dir+"sigVer-FIPS204/prompt.json.gz", dir+"sigVer-FIPS204/expectedResults.json.gz",
		func(t *testing.T, g *acvpGroup, in, want *acvpCase) {
			n++
			p, err := lookup(t, g.ParameterSet).ParsePublicKey(g.PK)
			if err != nil {
				t.Fatal(err)
			}
			ok, err := p.Verify(internalMu(g.PK, in.Message), in.Signature, SignOptions{ExternalMu: true})
			if err != nil || ok != want.Passed {
				t.Errorf("%s %d: %v, %v", g.ParameterSet, in.ID, ok, err)
			}
			if ok {
				accepted++
			}
		})
	if accepted < 6 {
		t.Errorf("only %d signatures were good ones", accepted)
	}
	acvpPair(t, dir+"sigGen-FIPS204/prompt.json.gz", dir+"sigGen-FIPS204/expectedResults.json.gz",
		func(t *testing.T, g *acvpGroup, in, want *acvpCase) {
			n++
			// The keys have no seeds, so that we cannot sign: we verify what they sign.
			var public []byte
			switch g.ParameterSet {
			case MLDSA44:
				k := new(mldsa44.PrivateKey)
				public = publicOf(t, k.UnmarshalBinary(in.SK), func() []byte { return k.Public().(*mldsa44.PublicKey).Bytes() })
			case MLDSA65:
				k := new(mldsa65.PrivateKey)
				public = publicOf(t, k.UnmarshalBinary(in.SK), func() []byte { return k.Public().(*mldsa65.PublicKey).Bytes() })
			case MLDSA87:
				k := new(mldsa87.PrivateKey)
				public = publicOf(t, k.UnmarshalBinary(in.SK), func() []byte { return k.Public().(*mldsa87.PublicKey).Bytes() })
			}
			p, err := lookup(t, g.ParameterSet).ParsePublicKey(public)
			if err != nil {
				t.Fatal(err)
			}
			ok, err := p.Verify(internalMu(public, in.Message), want.Signature, SignOptions{ExternalMu: true})
			if err != nil || !ok {
				t.Errorf("%s %d: %v, %v", g.ParameterSet, in.ID, ok, err)
			}
		})
	if n < 180 {
		t.Errorf("only %d vectors", n)
	}
}

func publicOf(t *testing.T, err error, f func() []byte) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return f()
}
