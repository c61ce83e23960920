package pqc

import (
	"runtime"
	"testing"
)

// TestFootprint holds what keys say of their size against the heap.
func TestFootprint(t *testing.T) {
	heap := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	for _, name := range []string{MLKEM512, MLKEM768, MLKEM1024, XWing, MLDSA44, MLDSA65, MLDSA87, MLDSA65P256, MLDSA65Ed25519, SLHDSASHA2128f, DHKEMX25519, DHKEMP521} {
		alg, ok := Lookup(name)
		if !ok {
			t.Fatal(name)
		}
		seed, err := alg.GenerateSeed(nil)
		if err != nil {
			t.Fatal(err)
		}
		opened, err := alg.NewPrivateKey(seed)
		if err != nil {
			t.Fatal(err)
		}
		raw := opened.PublicKey().Bytes()
		const n = 64
		keys := make([]*PrivateKey, 0, n)
		before := heap()
		for range n {
			k, err := alg.OpenPrivateKey(seed, raw)
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, k)
		}
		measured, said := (heap()-before)/n, keys[0].Footprint()
		if said < measured*8/10 || said > measured*2+2048 {
			t.Errorf("%s takes %d bytes and says %d", name, measured, said)
		}
		switch name {
		case MLDSA44, MLDSA65, MLDSA87:
			before = heap()
			for _, k := range keys {
				if _, err := k.Sign(make([]byte, MuSize), SignOptions{ExternalMu: true}); err != nil {
					t.Fatal(err)
				}
			}
			grown, saidGrown := (heap()-before)/n, keys[0].Footprint()-said
			if saidGrown < grown*8/10 || saidGrown > grown*2 {
				t.Errorf("%s grows by %d bytes and says %d", name, grown, saidGrown)
			}
		}
		runtime.KeepAlive(keys)
	}
}

// TestPublicKeysAreExpandedForUse: a public key that nobody uses takes no more than its encoding, and works after the collector was there.
func TestPublicKeysAreExpandedForUse(t *testing.T) {
	k := newKey(t, MLDSA65)
	p, err := k.Algorithm().ParsePublicKey(k.PublicKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("a message")
	sig, err := k.Sign(message, SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if ok, err := p.Verify(message, sig, SignOptions{}); err != nil || !ok {
			t.Fatal(ok, err)
		}
		runtime.GC()
		runtime.GC()
		if p.last.Value() != nil {
			t.Error("the expansion stays in memory")
		}
	}
}
