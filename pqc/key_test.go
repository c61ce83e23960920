package pqc

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/keywright/keywright/fault"
)

// TestTable: the sizes are the standards' own numbers, written down here once more.
func TestTable(t *testing.T) {
	type sizes struct{ seed, public, ciphertext, shared, signature, category int }
	want := map[string]sizes{
		MLKEM512: {64, 800, 768, 32, 0, 1}, MLKEM768: {64, 1184, 1088, 32, 0, 3}, MLKEM1024: {64, 1568, 1568, 32, 0, 5},
		XWing:     {32, 1216, 1120, 32, 0, 3},
		DHKEMP256: {32, 65, 65, 32, 0, 0}, DHKEMP384: {48, 97, 97, 48, 0, 0}, DHKEMP521: {66, 133, 133, 64, 0, 0},
		DHKEMX25519: {32, 32, 32, 32, 0, 0}, DHKEMX448: {56, 56, 56, 64, 0, 0},
		MLDSA44: {32, 1312, 0, 0, 2420, 2}, MLDSA65: {32, 1952, 0, 0, 3309, 3}, MLDSA87: {32, 2592, 0, 0, 4627, 5},
		MLDSA65P256: {64, 2017, 0, 0, 3381, 3}, MLDSA65Ed25519: {64, 1984, 0, 0, 3373, 3},
	}
	for n, sig := range map[string]int{"128s": 7856, "128f": 17088, "192s": 16224, "192f": 35664, "256s": 29792, "256f": 49856} {
		size := map[string]int{"1": 16, "9": 24, "5": 32}[n[1:2]]
		if n[0] == '1' && n[1] == '2' {
			size = 16
		}
		for _, family := range []string{"SHA2", "SHAKE"} {
			want["SLH-DSA-"+family+"-"+n] = sizes{3 * size, 2 * size, 0, 0, sig, map[int]int{16: 1, 24: 3, 32: 5}[size]}
		}
	}
	for _, a := range Algorithms() {
		i := a.Info()
		got := sizes{i.SeedSize, i.PublicKeySize, i.CiphertextSize, i.SharedKeySize, i.SignatureSize, i.Category}
		if got != want[i.Name] {
			t.Errorf("%s: %+v, want %+v", i.Name, got, want[i.Name])
		}
		if (i.Kind == KindKEM) != (i.CiphertextSize > 0) || i.Standard == "" || i.Slow != strings.HasPrefix(i.Name, "SLH") {
			t.Errorf("%+v", i)
		}
		if same, ok := Lookup(i.Name); !ok || same != a {
			t.Errorf("%s is not found", i.Name)
		}
		delete(want, i.Name)
	}
	for name := range want {
		t.Errorf("no %s", name)
	}
	if _, ok := Lookup("ml-kem-768"); ok {
		t.Error("names are taken in another spelling")
	}
	Algorithms()[0] = nil
	if Algorithms()[0] == nil {
		t.Error("the table can be written to")
	}
}

// quickAlgorithms leaves out the small sets of SLH-DSA, whose keys take long.
func quickAlgorithms() (quick []*Algorithm) {
	for _, a := range Algorithms() {
		if !a.Info().Slow || a.Name() == SLHDSASHA2128f {
			quick = append(quick, a)
		}
	}
	return quick
}

func TestKeys(t *testing.T) {
	for _, a := range quickAlgorithms() {
		i := a.Info()
		k := newKey(t, i.Name)
		seed := k.Seed()
		if len(seed) != i.SeedSize || len(k.PublicKey().Bytes()) != i.PublicKeySize || k.Algorithm() != a || k.PublicKey().Algorithm() != a {
			t.Errorf("%s: sizes", i.Name)
		}
		again, err := a.NewPrivateKey(seed)
		if err != nil || !again.PublicKey().Equal(k.PublicKey()) || again.Public() != crypto.PublicKey(again.PublicKey()) {
			t.Errorf("%s: another key from the same seed: %v", i.Name, err)
		}
		if !again.Equal(k) || k.Equal(newKey(t, i.Name)) || k.Equal(nil) || k.Equal((*PrivateKey)(nil)) {
			t.Errorf("%s: equal to everything or nothing", i.Name)
		}
		again.Wipe()
		if again.Equal(k) || again.Equal(again) {
			t.Errorf("%s: equal although wiped", i.Name)
		}
		opened, err := a.OpenPrivateKey(seed, k.PublicKey().Bytes())
		if err != nil || !opened.PublicKey().Equal(k.PublicKey()) {
			t.Errorf("%s: does not open: %v", i.Name, err)
		}
		parsed, err := a.ParsePublicKey(k.PublicKey().Bytes())
		if err != nil || !parsed.Equal(k.PublicKey()) {
			t.Errorf("%s: %v", i.Name, err)
		}
		other := newKey(t, i.Name)
		if other.PublicKey().Equal(k.PublicKey()) || k.PublicKey().Equal(nil) || k.PublicKey().Equal((*PublicKey)(nil)) || k.PublicKey().Equal(seed) {
			t.Errorf("%s: equal to everything", i.Name)
		}
		if _, err := a.OpenPrivateKey(seed, other.PublicKey().Bytes()); !fault.Has(err, fault.BadImport) {
			t.Errorf("%s: opened with another public key: %v", i.Name, err)
		}
		for _, bad := range [][]byte{nil, seed[1:], append(bytes.Clone(seed), 0)} {
			if _, err := a.NewPrivateKey(bad); !fault.Has(err, fault.BadImport) {
				t.Errorf("%s: a seed of %d bytes: %v", i.Name, len(bad), err)
			}
		}
		raw := k.PublicKey().Bytes()
		for _, bad := range [][]byte{nil, raw[1:], append(bytes.Clone(raw), 0)} {
			if _, err := a.ParsePublicKey(bad); !fault.Has(err, fault.BadImport) {
				t.Errorf("%s: a public key of %d bytes: %v", i.Name, len(bad), err)
			}
			if _, err := a.OpenPrivateKey(seed, bad); !fault.Has(err, fault.BadImport) {
				t.Errorf("%s: a public key of %d bytes: %v", i.Name, len(bad), err)
			}
		}
		raw[0]++ // a copy
		seed[0]++
		if bytes.Equal(raw, k.PublicKey().Bytes()) || bytes.Equal(seed, k.Seed()) {
			t.Errorf("%s: gives out its own bytes", i.Name)
		}
	}
}

// TestKeysDoNotPrint: by no verb and no logger.
func TestKeysDoNotPrint(t *testing.T) {
	k := newKey(t, MLKEM512)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("key", "key", k)
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%#v", k), fmt.Sprintf("%q", k), fmt.Sprintf("%v", k.Seed()), log.String()} {
		if !strings.Contains(s, "[redacted]") {
			t.Errorf("printed: %.60s", s)
		}
	}
}

// TestWrongPoints: what is no public key, or none that a secret can be agreed with.
func TestWrongPoints(t *testing.T) {
	for _, name := range []string{DHKEMP256, DHKEMP384, DHKEMP521, MLDSA65P256} {
		raw := newKey(t, name).PublicKey().Bytes()
		raw[len(raw)-1] ^= 1
		if _, err := lookup(t, name).ParsePublicKey(raw); !fault.Has(err, fault.BadImport) {
			t.Errorf("%s: off the curve: %v", name, err)
		}
	}
	for _, name := range []string{DHKEMX25519, DHKEMX448} {
		a := lookup(t, name)
		k := newKey(t, name)
		zero := make([]byte, a.Info().PublicKeySize)
		if p, err := a.ParsePublicKey(zero); err == nil {
			if _, _, err := p.Encapsulate(); !fault.Has(err, fault.BadImport) {
				t.Errorf("%s: agreed with a point of low order: %v", name, err)
			}
		} else if !fault.Has(err, fault.BadImport) {
			t.Error(err)
		}
		if _, err := k.Decapsulate(zero); !fault.Has(err, fault.DecryptionFailed) {
			t.Errorf("%s: agreed with a point of low order: %v", name, err)
		}
	}
	for _, name := range []string{DHKEMP256, DHKEMP384, DHKEMP521} {
		a := lookup(t, name)
		for _, b := range []byte{0, 0xff} {
			if _, err := a.NewPrivateKey(bytes.Repeat([]byte{b}, a.Info().SeedSize)); !fault.Has(err, fault.BadImport) {
				t.Errorf("%s: a scalar of %#x bytes: %v", name, b, err)
			}
		}
		ct := make([]byte, a.Info().CiphertextSize)
		if _, err := newKey(t, name).Decapsulate(ct); !fault.Has(err, fault.DecryptionFailed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestModulus: a coefficient of the modulus or above is no ML-KEM key (FIPS 203 section 7.2), in X-Wing too.
func TestModulus(t *testing.T) {
	for _, name := range []string{MLKEM512, MLKEM768, MLKEM1024, XWing} {
		raw := newKey(t, name).PublicKey().Bytes()
		raw[0], raw[1] = 0xff, raw[1]|0x0f
		if _, err := lookup(t, name).ParsePublicKey(raw); !fault.Has(err, fault.BadImport) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKEM(t *testing.T) {
	for _, a := range quickAlgorithms() {
		i := a.Info()
		if i.Kind != KindKEM {
			continue
		}
		k := newKey(t, i.Name)
		ct, ss, err := k.PublicKey().Encapsulate()
		if err != nil || len(ct) != i.CiphertextSize || len(ss) != i.SharedKeySize {
			t.Fatalf("%s: %d, %d, %v", i.Name, len(ct), len(ss), err)
		}
		ct2, ss2, err := k.PublicKey().Encapsulate()
		if err != nil || bytes.Equal(ct, ct2) || bytes.Equal(ss, ss2) {
			t.Errorf("%s: twice the same: %v", i.Name, err)
		}
		if got, err := k.Decapsulate(ct); err != nil || !bytes.Equal(got, ss) {
			t.Errorf("%s: %v", i.Name, err)
		}
		for _, bad := range [][]byte{nil, ct[1:], append(bytes.Clone(ct), 0)} {
			if _, err := k.Decapsulate(bad); !fault.Has(err, fault.DecryptionFailed) {
				t.Errorf("%s: a ciphertext of %d bytes: %v", i.Name, len(bad), err)
			}
		}
		if _, err := k.Sign(nil, SignOptions{}); !fault.Has(err, fault.OperationNotAllowed) {
			t.Errorf("%s signs: %v", i.Name, err)
		}
		if _, err := k.PublicKey().Verify(nil, nil, SignOptions{}); !fault.Has(err, fault.OperationNotAllowed) {
			t.Errorf("%s verifies: %v", i.Name, err)
		}
	}
	k := newKey(t, MLDSA44)
	if _, _, err := k.PublicKey().Encapsulate(); !fault.Has(err, fault.OperationNotAllowed) {
		t.Error(err)
	}
	if _, err := k.Decapsulate(nil); !fault.Has(err, fault.OperationNotAllowed) {
		t.Error(err)
	}
}

// TestImplicitRejection: whatever is changed in a ciphertext of ML-KEM or X-Wing gives another secret, the same each time, and no error.
func TestImplicitRejection(t *testing.T) {
	for _, name := range []string{MLKEM512, MLKEM768, MLKEM1024, XWing} {
		k := newKey(t, name)
		ct, ss, err := k.PublicKey().Encapsulate()
		if err != nil {
			t.Fatal(err)
		}
		rapid.Check(t, func(t *rapid.T) {
			changed := bytes.Clone(ct)
			changed[rapid.IntRange(0, len(ct)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "by"))
			got, err := k.Decapsulate(changed)
			again, err2 := k.Decapsulate(changed)
			if err != nil || err2 != nil || bytes.Equal(got, ss) || !bytes.Equal(got, again) {
				t.Errorf("%s: %v, %v", name, err, err2)
			}
		})
	}
}

// TestWipe: the key is of no more use, operations under way finish, and the seed is gone.
func TestWipe(t *testing.T) {
	for _, a := range quickAlgorithms() {
		k := newKey(t, a.Name())
		inner := k.seed
		k.Wipe()
		k.Wipe()
		if !bytes.Equal(inner, make([]byte, len(inner))) {
			t.Errorf("%s: the seed is still there", a.Name())
		}
		if k.Seed() != nil {
			t.Errorf("%s: gives a seed", a.Name())
		}
		for what, err := range map[string]error{"decapsulates": second(k.Decapsulate(nil)), "signs": second(k.Sign(nil, SignOptions{})),
			"expands": second(k.Expanded())} {
			if !fault.Has(err, fault.Internal) {
				t.Errorf("%s %s: %v", a.Name(), what, err)
			}
		}
		if !k.PublicKey().Equal(k.Public()) {
			t.Errorf("%s: the public key is gone", a.Name())
		}
	}
	// While others use it.
	k := newKey(t, MLDSA44)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				sig, err := k.Sign([]byte("m"), SignOptions{})
				if fault.Has(err, fault.Internal) {
					return
				}
				if ok, err2 := k.PublicKey().Verify([]byte("m"), sig, SignOptions{}); err != nil || err2 != nil || !ok {
					t.Errorf("%v, %v, %v", ok, err, err2)
					return
				}
			}
		})
	}
	k.Wipe()
	wg.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.impl != nil || k.users != 0 {
		t.Error("the last user did not wipe")
	}
}

// TestExpanded: only what the standards have one for.
func TestExpanded(t *testing.T) {
	for _, a := range quickAlgorithms() {
		want := map[string]int{MLKEM512: 1632, MLKEM768: 2400, MLKEM1024: 3168, MLDSA44: 2560, MLDSA65: 4032, MLDSA87: 4896}[a.Name()]
		raw, err := newKey(t, a.Name()).Expanded()
		if len(raw) != want || want == 0 && !fault.Has(err, fault.Unsupported) || want > 0 && err != nil {
			t.Errorf("%s: %d bytes, %v", a.Name(), len(raw), err)
		}
	}
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

type constantReader byte

func (c constantReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(c)
	}
	return len(p), nil
}

func TestGenerateSeed(t *testing.T) {
	cause := errors.New("no noise")
	for _, a := range Algorithms() {
		if seed, err := a.GenerateSeed(failingReader{cause}); seed != nil || !errors.Is(err, cause) || !fault.Has(err, fault.Internal) {
			t.Errorf("%s: %v", a.Name(), err)
		}
		if seed, err := a.GenerateSeed(io.LimitReader(constantReader(1), int64(a.Info().SeedSize-1))); seed != nil || !fault.Has(err, fault.Internal) {
			t.Errorf("%s: %v", a.Name(), err)
		}
		seed, err := a.GenerateSeed(constantReader(1))
		if err != nil || len(seed) != a.Info().SeedSize {
			t.Errorf("%s: %v", a.Name(), err)
		}
	}
	for _, name := range []string{DHKEMP256, DHKEMP384, MLDSA65P256} { // a generator that gives no number below the order
		if seed, err := lookup(t, name).GenerateSeed(constantReader(0xff)); seed != nil || !fault.Has(err, fault.Internal) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
