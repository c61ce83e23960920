package pqc

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/fault"
)

var writeVectors = flag.Bool("write-vectors", false, "have the JavaScript judge make docs/formats/vectors/kem-envelope.json anew")

var vectorFile = filepath.Join("..", "docs", "formats", "vectors", "kem-envelope.json")

type envelopeVector struct {
	Name      string            `json:"name"`
	Algorithm string            `json:"algorithm"`
	ID        uint16            `json:"algorithm_id"`
	Seed      hexOut            `json:"seed"`
	Coins     hexOut            `json:"coins"`
	KeyID     string            `json:"key_id"`
	Version   uint32            `json:"key_version"`
	Nonce     hexOut            `json:"nonce"`
	AAD       hexOut            `json:"aad"`
	Context   map[string]string `json:"context"`
	Plaintext hexOut            `json:"plaintext"`
	Envelope  hexOut            `json:"envelope"`
}

// hexOut is hexBytes both ways.
type hexOut []byte

func (h *hexOut) UnmarshalText(text []byte) error { return (*hexBytes)(h).UnmarshalText(text) }
func (h hexOut) MarshalText() ([]byte, error)     { return fmt.Appendf(nil, "%x", []byte(h)), nil }

type envelopeVectors struct {
	Format  string           `json:"format"`
	Note    string           `json:"note"`
	Vectors []envelopeVector `json:"vectors"`
}

// makeVectors asks the judge for what the file has.
func makeVectors(t *testing.T) {
	t.Helper()
	f := envelopeVectors{Format: "docs/formats/kem-envelope.md",
		Note: "Binary values are hexadecimal. coins is the randomness of the encapsulation: m of FIPS 203, eseed of X-Wing's draft."}
	var a asking
	for i, name := range []string{MLKEM512, MLKEM768, MLKEM1024, XWing} {
		alg := lookup(t, name)
		v := envelopeVector{Name: name, Algorithm: name, ID: []uint16{0x100, 0x101, 0x102, 0x110}[i], KeyID: uuid.NewString(), Version: uint32(i + 1),
			Seed: pattern(byte(i), alg.Info().SeedSize), Nonce: pattern(byte(i+20), EnvelopeNonce), Plaintext: pattern(byte(i+40), i*9),
			Coins: pattern(byte(i+10), map[bool]int{true: 64, false: 32}[name == XWing])}
		if i%2 == 1 {
			v.AAD, v.Context = []byte("aad"), map[string]string{"tenant": "a", "purpose": "ü"}
		}
		k, err := alg.NewPrivateKey(v.Seed)
		if err != nil {
			t.Fatal(err)
		}
		a.ask(sealQuestion(k, &v), func(_ *testing.T, r verdict) {
			v.Envelope = r.Envelope
			f.Vectors = append(f.Vectors, v)
		})
	}
	a.settle(t)
	data, err := json.Marshal(f, jsontext.WithIndent(" "), json.Deterministic(true))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, append(data, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}

func pattern(from byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = from + byte(i)*7
	}
	return b
}

func sealQuestion(k *PrivateKey, v *envelopeVector) judge {
	return judge{Op: "seal", Algorithm: v.Algorithm, Public: k.PublicKey().Bytes(), Coins: v.Coins, Nonce: v.Nonce, AAD: v.AAD, Context: v.Context,
		KeyID: v.KeyID, Version: v.Version, ID: v.ID, Message: v.Plaintext}
}

// openEnvelope is the whole of opening, as it is done by whoever has the key.
func openEnvelope(k *PrivateKey, raw, aad []byte, context map[string]string) ([]byte, error) {
	e, err := envelope.Parse(raw)
	if err != nil {
		return nil, err
	}
	key, err := k.OpeningKey(e.KEM)
	if err != nil {
		return nil, err
	}
	return key.Open(nil, e.Sealed, e.AppendAAD(nil, len(e.Nonce), aad, context))
}

func sealEnvelope(p *PublicKey, h envelope.Header, plaintext, aad []byte, context map[string]string) ([]byte, error) {
	kem, key, err := p.SealingKey()
	if err != nil {
		return nil, err
	}
	h.KEM = kem
	body := len(plaintext) + EnvelopeTag
	buf := h.AppendHeader(make([]byte, 0, h.Size(EnvelopeNonce, body)), EnvelopeNonce, body)
	return key.Seal(buf, plaintext, h.AppendAAD(nil, EnvelopeNonce, aad, context)), nil
}

func TestEnvelopeVectors(t *testing.T) {
	if *writeVectors {
		makeVectors(t)
	}
	data, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var f envelopeVectors
	if err := json.Unmarshal(data, &f, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	if len(f.Vectors) != 4 {
		t.Fatalf("%d vectors", len(f.Vectors))
	}
	var a asking
	for _, v := range f.Vectors {
		k, err := lookup(t, v.Algorithm).NewPrivateKey(v.Seed)
		if err != nil {
			t.Fatal(err)
		}
		pt, err := openEnvelope(k, v.Envelope, v.AAD, v.Context)
		if err != nil || !bytes.Equal(pt, v.Plaintext) {
			t.Errorf("%s: %v", v.Name, err)
		}
		e, err := envelope.Parse(v.Envelope)
		if err != nil || e.Algorithm != v.ID || e.KeyVersion != v.Version || e.KeyID.String() != v.KeyID {
			t.Errorf("%s: %+v, %v", v.Name, e.Header, err)
		}
		// Every byte counts: none may be changed. Those of the header in steps, for each costs a decapsulation.
		for at := 0; at < len(v.Envelope); at += max(1, min(at-27, 37)) {
			changed := bytes.Clone(v.Envelope)
			changed[at] ^= 1
			if _, err := openEnvelope(k, changed, v.AAD, v.Context); !fault.Has(err, fault.DecryptionFailed) && !fault.Has(err, fault.BadEnvelope) {
				t.Errorf("%s: byte %d changed: %v", v.Name, at, err)
			}
		}
		for _, aad := range [][]byte{[]byte("other"), append(bytes.Clone(v.AAD), 0)} {
			if _, err := openEnvelope(k, v.Envelope, aad, v.Context); !fault.Has(err, fault.DecryptionFailed) {
				t.Errorf("%s: another aad: %v", v.Name, err)
			}
		}
		if _, err := openEnvelope(k, v.Envelope, v.AAD, map[string]string{"tenant": "b"}); !fault.Has(err, fault.DecryptionFailed) {
			t.Errorf("%s: another context: %v", v.Name, err)
		}
		// The judge makes the same again, and opens what we make.
		a.ask(sealQuestion(k, &v), func(t *testing.T, r verdict) {
			if !bytes.Equal(r.Envelope, v.Envelope) {
				t.Errorf("%s: the judge makes another", v.Name)
			}
		})
		ours, err := sealEnvelope(k.PublicKey(), e.Header, v.Plaintext, v.AAD, v.Context)
		if err != nil {
			t.Fatal(err)
		}
		a.ask(judge{Op: "open", Algorithm: v.Algorithm, Seed: v.Seed, Envelope: ours, AAD: v.AAD, Context: v.Context},
			func(t *testing.T, r verdict) {
				if !bytes.Equal(r.Message, v.Plaintext) {
					t.Errorf("%s: the judge opens ours to something else", v.Name)
				}
			})
	}
	a.settle(t)
}

func TestEnvelopeKeys(t *testing.T) {
	for _, alg := range Algorithms() {
		if alg.Info().Kind != KindKEM {
			continue
		}
		name := alg.Name()
		k := newKey(t, name)
		plaintext, aad := []byte("plaintext"), []byte("aad")
		kem, key, err := k.PublicKey().SealingKey()
		if err != nil {
			t.Fatal(err)
		}
		sealed := key.Seal([]byte("before"), plaintext, aad)
		if !bytes.HasPrefix(sealed, []byte("before")) || len(sealed) != 6+EnvelopeNonce+len(plaintext)+EnvelopeTag {
			t.Errorf("%s: %d bytes", name, len(sealed))
		}
		sealed = sealed[6:]
		open := func(with *PrivateKey, kem, sealed, aad []byte) ([]byte, error) {
			key, err := with.OpeningKey(kem)
			if err != nil {
				return nil, err
			}
			return key.Open(nil, sealed, aad)
		}
		if got, err := open(k, kem, sealed, aad); err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("%s: %v", name, err)
		}
		shared, err := k.Decapsulate(kem)
		if err != nil {
			t.Fatal(err)
		}
		byShared, err := k.PublicKey().OpeningKeyOf(kem, shared)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := byShared.Open(nil, sealed, aad); err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("%s: %v", name, err)
		}
		// Another recipient's public key with the same secret and ciphertext: the derivation binds it.
		other := newKey(t, name)
		if foreign, err := other.PublicKey().OpeningKeyOf(kem, shared); err != nil {
			t.Error(err)
		} else if _, err := foreign.Open(nil, sealed, aad); !fault.Has(err, fault.DecryptionFailed) {
			t.Errorf("%s: opened under another key: %v", name, err)
		}
		changed := bytes.Clone(kem)
		changed[len(changed)-1] ^= 1
		for what, err := range map[string]error{
			"kem": second(open(k, changed, sealed, aad)), "short kem": second(open(k, kem[1:], sealed, aad)),
			"other key": second(open(other, kem, sealed, aad)), "aad": second(open(k, kem, sealed, nil)),
			"short": second(open(k, kem, sealed[:EnvelopeNonce+EnvelopeTag-1], aad)), "empty": second(open(k, kem, nil, aad)),
		} {
			if err == nil || err.Error() != errCiphertext.Error() {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		if _, err := k.PublicKey().OpeningKeyOf(kem[1:], shared); !fault.Has(err, fault.DecryptionFailed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	signing := newKey(t, MLDSA44)
	if _, _, err := signing.PublicKey().SealingKey(); !fault.Has(err, fault.OperationNotAllowed) {
		t.Error(err)
	}
	if _, err := signing.OpeningKey(nil); !fault.Has(err, fault.OperationNotAllowed) {
		t.Error(err)
	}
	if _, err := signing.PublicKey().OpeningKeyOf(nil, nil); !fault.Has(err, fault.OperationNotAllowed) {
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }
