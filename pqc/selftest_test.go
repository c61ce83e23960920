package pqc

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/keywright/keywright/fault"
)

func TestSelfTests(t *testing.T) {
	for _, a := range Algorithms() {
		start := time.Now()
		if err := a.SelfTest(); err != nil {
			t.Errorf("%s: %v", a.Name(), err)
		}
		t.Logf("%s: %v", a.Name(), time.Since(start))
	}
}

// broken is a scheme with something wrong in what comes out of it.
type broken struct {
	scheme
	how string
}

func (b broken) private(seed, public []byte) (privateImpl, []byte, error) {
	if b.how == "panic" {
		panic(b.how)
	}
	if b.how == "refuses" {
		return nil, nil, errors.New("refused")
	}
	impl, raw, err := b.scheme.private(seed, public)
	return brokenPrivate{impl, b.how}, raw, err
}

func (b broken) public(raw []byte) (publicImpl, error) {
	impl, err := b.scheme.public(raw)
	return brokenPublic{impl, b.how}, err
}

type brokenPrivate struct {
	privateImpl
	how string
}

func (b brokenPrivate) sign(message []byte, o *SignOptions) ([]byte, error) {
	sig, err := b.privateImpl.(signPrivate).sign(message, o)
	if b.how == "signature" && err == nil {
		sig[0] ^= 1
	}
	return sig, err
}

func (b brokenPrivate) decapsulate(ct []byte) ([]byte, error) {
	ss, err := b.privateImpl.(kemPrivate).decapsulate(ct)
	if b.how == "secret" && err == nil {
		ss[0] ^= 1
	}
	return ss, err
}

type brokenPublic struct {
	publicImpl
	how string
}

func (b brokenPublic) encapsulate(coins []byte) ([]byte, []byte, error) {
	ct, ss, err := b.publicImpl.(kemPublic).encapsulate(coins)
	if b.how == "ciphertext" && err == nil {
		ct[0] ^= 1
	}
	return ct, ss, err
}

func (b brokenPublic) verify(message, sig []byte, o *SignOptions) (bool, error) {
	if b.how == "accepts" {
		return true, nil
	}
	if b.how == "refuses" {
		return false, nil
	}
	return b.publicImpl.(signPublic).verify(message, sig, o)
}

// breakOne gives the table with one algorithm broken.
func breakOne(t *testing.T, name, how string) []*Algorithm {
	t.Helper()
	rows := Algorithms()
	i := slices.IndexFunc(rows, func(a *Algorithm) bool { return a.Name() == name })
	good := rows[i]
	tests := map[string]func(*Algorithm) error{MLKEM768: testMLKEM, XWing: testXWing, DHKEMX25519: testDHKEM, MLDSA65: testMLDSA,
		SLHDSASHA2128f: testSLHDSA, SLHDSASHA2128s: testSLHDSA, MLDSA65P256: testComposite}
	rows[i] = newAlgorithm(good.info, broken{good.scheme, how}, tests[name])
	return rows
}

func TestBrokenIsNotOffered(t *testing.T) {
	for name, hows := range map[string][]string{
		MLKEM768:       {"panic", "refuses", "secret", "ciphertext"},
		XWing:          {"panic", "secret", "ciphertext"},
		DHKEMX25519:    {"refuses", "secret", "ciphertext"},
		MLDSA65:        {"panic", "refuses", "signature", "accepts"},
		SLHDSASHA2128f: {"signature", "accepts", "refuses"},
		SLHDSASHA2128s: {"accepts", "refuses"},
		MLDSA65P256:    {"signature", "accepts", "refuses"},
	} {
		for _, how := range hows {
			t.Run(name+"/"+how, func(t *testing.T) {
				t.Parallel()
				passed, failed := powerOn(breakOne(t, name, how), []string{name, MLKEM512})
				if len(passed) != 1 || passed[0].Name() != MLKEM512 {
					t.Errorf("offered: %v", passed)
				}
				if len(failed) != 1 || failed[0].Algorithm != name || !fault.Has(failed[0].Err, fault.Internal) {
					t.Errorf("failed: %v", failed)
				}
			})
		}
	}
}

func TestPowerOn(t *testing.T) {
	passed, failed := PowerOn()
	if len(passed) != len(table) || len(failed) != 0 {
		t.Errorf("%d passed, failed: %v", len(passed), failed)
	}
	passed, failed = PowerOn(MLDSA44, "ROT13")
	if len(passed) != 1 || len(failed) != 1 || failed[0].Algorithm != "ROT13" || !fault.Has(failed[0].Err, fault.BadAlgorithm) {
		t.Errorf("%v, %v", passed, failed)
	}
}

// TestKnownAnswersMissing: a self-test without its answers fails.
func TestKnownAnswersMissing(t *testing.T) {
	if _, err := kat("ROT13"); !errors.Is(err, errKATFile) {
		t.Error(err)
	}
}
