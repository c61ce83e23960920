package main

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/keywright/keywright/pqc"
)

func ask(t *testing.T, h *helper, q ...byte) []byte {
	t.Helper()
	out := h.answer(q)
	if len(out) == 0 || out[0] != done {
		t.Fatalf("the answer is %x", out)
	}
	return out[1:]
}

func asked(what, keyType, set, flags, hash byte, context, seed, data []byte) []byte {
	return slices.Concat([]byte{what, keyType, set, flags, hash, byte(len(context))}, context, []byte{byte(len(seed))}, seed, data)
}

// TestAnswers: what the helper makes, package pqc takes.
func TestAnswers(t *testing.T) {
	h := &helper{}
	pair := ask(t, h, asked(generate, 0x4a, 2, 0, 0, nil, nil, nil)...)
	seed, raw := pair[1:1+pair[0]], pair[1+pair[0]:]
	alg, _ := pqc.Lookup(pqc.MLDSA65)
	pub, err := alg.ParsePublicKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, h, asked(public, 0x4a, 2, 0, 0, nil, seed, nil)...); !bytes.Equal(got, raw) {
		t.Error("the seed has another public key")
	}
	sig := ask(t, h, asked(sign, 0x4a, 2, 0, 0, []byte("context"), seed, []byte("message"))...)
	if ok, err := pub.Verify([]byte("message"), sig, pqc.SignOptions{Context: []byte("context")}); err != nil || !ok {
		t.Errorf("the signature does not verify (%v)", err)
	}

	der := ask(t, h, asked(marshal, 0x4a, 2, 0, 0, nil, seed, nil)...)
	if got := ask(t, h, asked(unmarshal, 0x4a, 0, 0, 0, nil, nil, append(der, 0, 0, 0))...); got[0] != 2 || !bytes.Equal(got[1:], seed) {
		t.Error("the seed is another after PKCS#8")
	}

	pair = ask(t, h, asked(generate, 0x49, 2, 0, 0, nil, nil, nil)...)
	seed, raw = pair[1:1+pair[0]], pair[1+pair[0]:]
	both := ask(t, h, asked(encapsulate, 0x49, 2, 0, 0, nil, nil, raw)...)
	if got := ask(t, h, asked(decapsulate, 0x49, 2, 0, 0, nil, seed, both[32:])...); !bytes.Equal(got, both[:32]) {
		t.Error("the two sides come to different secrets")
	}
	changed := bytes.Clone(both[32:])
	changed[5] ^= 1
	if got := ask(t, h, asked(decapsulate, 0x49, 2, 0, 0, nil, seed, changed)...); bytes.Equal(got, both[:32]) {
		t.Error("a changed ciphertext gives the same secret")
	}
	strict := &helper{wrong: []string{"rejection"}}
	if out := strict.answer(asked(decapsulate, 0x49, 2, 0, 0, nil, seed, changed)); out[0] != refused {
		t.Error("rejection is not explicit")
	}
	ask(t, strict, asked(decapsulate, 0x49, 2, 0, 0, nil, seed, both[32:])...)
}

func FuzzRequests(f *testing.F) {
	f.Add(asked(generate, 0x4a, 1, 0, 0, nil, nil, nil))
	f.Add(asked(sign, 0x4a, 2, deterministic, 1, []byte("context"), make([]byte, 32), make([]byte, 32)))
	f.Add(asked(decapsulate, 0x49, 1, 0, 0, nil, make([]byte, 64), make([]byte, 768)))
	f.Add(asked(unmarshal, 0x4a, 0, 0, 0, nil, nil, []byte{0x30, 0}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		in := append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
		if err := serve(bytes.NewReader(in), &out, nil); err != nil {
			t.Fatal(err)
		}
		if out.Len() < 5 {
			t.Fatal("no answer")
		}
	})
}
