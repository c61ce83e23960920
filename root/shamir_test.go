package root

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/secret"
)

// sharesOf makes a root whose only slot has n shares, m of which open it.
func sharesOf(t testing.TB, n, m int) (*memory, []string, string) {
	t.Helper()
	mem := new(memory)
	k := keeper(t, mem)
	a, err := k.Init(t.Context(), who, NewSlot{Kind: KindShamir, Shares: n, Threshold: m})
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Shares) != n {
		t.Fatalf("%d shares, want %d", len(a.Shares), n)
	}
	key, err := k.Derive("x")
	if err != nil {
		t.Fatal(err)
	}
	return mem, a.Shares, string(key)
}

// subset gives the shares whose bit is set.
func subset(shares []string, bits int) (out []string) {
	for i, s := range shares {
		if bits&(1<<i) != 0 {
			out = append(out, s)
		}
	}
	return out
}

// Every subset of at least the threshold opens, every smaller one does not.
func TestEverySubset(t *testing.T) {
	for _, c := range []struct{ n, m int }{{2, 2}, {3, 2}, {5, 3}, {4, 4}} {
		mem, shares, derived := sharesOf(t, c.n, c.m)
		for bits := 1; bits < 1<<c.n; bits++ {
			some := subset(shares, bits)
			slices.Reverse(some) // the order does not matter
			k := keeper(t, mem)
			missing, err := k.UnlockShares(t.Context(), who, some)
			if err != nil {
				t.Fatalf("%d of %d, subset %b: %v", c.m, c.n, bits, err)
			}
			if wantMissing := max(0, c.m-len(some)); missing != wantMissing || k.Locked() != (wantMissing > 0) {
				t.Errorf("%d of %d, subset %b: %d missing, locked %v", c.m, c.n, bits, missing, k.Locked())
			}
			if !k.Locked() && derive(t, k, "x") != derived {
				t.Errorf("%d of %d, subset %b: another root", c.m, c.n, bits)
			}
			k.Close()
		}
	}
}

// Fewer shares than the threshold do not give the secret either when they are joined as if they were enough.
func TestTooFewSharesAreWorthNothing(t *testing.T) {
	mem, texts, _ := sharesOf(t, 4, 3)
	for bits := 1; bits < 1<<4; bits++ {
		var some []*share
		for _, text := range subset(texts, bits) {
			s, err := parseShare(text)
			if err != nil {
				t.Fatal(err)
			}
			some = append(some, s)
		}
		ikm, err := recoverSecret(len(some), some)
		if err != nil {
			t.Fatal(err)
		}
		_, err = mem.slots[0].open(ikm)
		if opens := err == nil; opens != (len(some) >= 3) {
			t.Errorf("%d of 3 shares, subset %b: opens %v", len(some), bits, opens)
		}
	}
}

func TestSharesOneByOne(t *testing.T) {
	ctx := t.Context()
	mem, shares, derived := sharesOf(t, 5, 3)
	other, foreign, _ := sharesOf(t, 5, 3)
	k := keeper(t, mem)
	mem.log()
	step := func(given []string, missing int, code fault.Code) {
		t.Helper()
		got, err := k.UnlockShares(ctx, who, given)
		want(t, err, code)
		if code == "" && got != missing {
			t.Errorf("%d missing, want %d", got, missing)
		}
	}
	step(shares[:1], 2, "")
	step(shares[:1], 2, "") // again: counted once
	step(foreign[:1], 0, fault.WrongSecret)
	step([]string{shares[1], foreign[1]}, 0, fault.WrongSecret) // none of a call with a wrong one
	step([]string{shares[1], "nonsense"}, 0, fault.BadEncoding)
	step(nil, 0, fault.BadSize)
	step(make([]string, MaxShares+1), 0, fault.BadSize)

	// Shares that were tampered with and given a right checksum again.
	for name, change := range map[string]func(s *share){
		"value":     func(s *share) { s.value[47] ^= 1 },
		"index":     func(s *share) { s.index = 5 },
		"no index":  func(s *share) { s.index = 6 },
		"threshold": func(s *share) { s.threshold = 2 },
		"slot":      func(s *share) { s.slot = uuid.New() },
	} {
		s, err := parseShare(shares[1])
		if err != nil {
			t.Fatal(err)
		}
		change(s)
		if _, err := k.UnlockShares(ctx, who, []string{s.text()}); !fault.Has(err, fault.WrongSecret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	step(shares[2:3], 1, "")
	step(shares[4:], 0, "")
	if k.Locked() || derive(t, k, "x") != derived || len(k.shares.of) != 0 {
		t.Error("not open, another root, or shares left")
	}
	step(shares[:1], 0, fault.NotLocked)
	lines := mem.log()
	for _, wanted := range []string{"root.unlock ok shares 1 of 3", "root.unlock ok shares 2 of 3", "root.unlock ok shamir", "root.unlock ERR_WRONG_ROOT_SECRET shamir"} {
		if !slices.Contains(lines, wanted) {
			t.Errorf("log %q lacks %q", lines, wanted)
		}
	}
	if len(other.slots) != 1 {
		t.Error("the other store changed")
	}
}

// Shares do not wait for ever, and are wiped.
func TestShareWindow(t *testing.T) {
	mem, shares, _ := sharesOf(t, 2, 2)
	synctest.Test(t, func(t *testing.T) {
		k := New(mem, mem, Options{ShareWindow: time.Minute})
		defer k.Close()
		if n, err := k.UnlockShares(t.Context(), who, shares[:1]); err != nil || n != 1 {
			t.Fatal(n, err)
		}
		var held secret.Bytes
		k.mu.Lock()
		for _, m := range k.shares.of {
			for _, s := range m {
				held = s.value
			}
		}
		k.mu.Unlock()
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		k.mu.Lock()
		if slices.ContainsFunc(held, func(b byte) bool { return b != 0 }) || len(held) == 0 {
			t.Error("the share was not wiped")
		}
		k.mu.Unlock()
		if n, err := k.UnlockShares(t.Context(), who, shares[1:]); err != nil || n != 1 {
			t.Errorf("%d missing after the window, %v", n, err)
		}
		time.Sleep(time.Second)
		if n, err := k.UnlockShares(t.Context(), who, shares[:1]); err != nil || n != 0 || k.Locked() {
			t.Errorf("within a new window: %d missing, %v", n, err)
		}
	})
}

// A slot whose sealed root was changed does not open, though all shares are genuine; others go on.
func TestTamperedShamirSlot(t *testing.T) {
	mem, shares, _ := sharesOf(t, 3, 2)
	mem.slots[0].Sealed[30] ^= 1
	_, err := keeper(t, mem).UnlockShares(t.Context(), who, shares)
	want(t, err, fault.WrongSecret)
	mem.slots[0].Params = []byte(strings.Replace(string(mem.slots[0].Params), "P-384", "P-521", 1))
	_, err = keeper(t, mem).UnlockShares(t.Context(), who, shares)
	want(t, err, fault.WrongSecret)
}

func TestShareText(t *testing.T) {
	_, shares, _ := sharesOf(t, 2, 2)
	for _, text := range shares {
		s, err := parseShare(text)
		if err != nil {
			t.Fatal(err)
		}
		if s.text() != text {
			t.Error("a share is written in two ways")
		}
		// Any one wrong character is noticed.
		for i := range text {
			wrong := []byte(text)
			wrong[i] = 'A'
			if text[i] == 'A' {
				wrong[i] = 'B'
			}
			_, err := parseShare(string(wrong))
			want(t, err, fault.BadEncoding)
		}
		for _, wrong := range []string{"", text[:len(text)-1], text + "A", text + "\n", " " + text, strings.ToLower(text), text[:60] + "\n" + text[60:]} {
			_, err := parseShare(wrong)
			want(t, err, fault.BadEncoding)
		}
	}
	over := &share{threshold: 2, index: 1, value: slices.Repeat([]byte{0xff}, scalarSize)}
	_, err := parseShare(over.text())
	want(t, err, fault.BadEncoding)
}

func FuzzParseShare(f *testing.F) {
	for _, s := range loadSlots(f).Slots {
		for _, text := range s.Shares {
			f.Add(text)
		}
	}
	f.Add(sharePrefix + strings.Repeat("A", shareText))
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseShare(text)
		if err != nil {
			want(t, err, fault.BadEncoding)
			return
		}
		if s.text() != text {
			t.Fatalf("written again as %q", s.text())
		}
	})
}

func FuzzParams(f *testing.F) {
	for _, s := range loadSlots(f).Slots {
		f.Add([]byte(s.Params))
	}
	for _, s := range loadSlots(f).Devices {
		f.Add([]byte(s.Params))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := readPassphraseParams(b); err == nil {
			if again, err := encodeParams(p); err != nil {
				t.Fatal(err)
			} else if q, err := readPassphraseParams(again); err != nil || !cmp.Equal(p, q) {
				t.Fatalf("read, written and read: %v", err)
			}
		}
		if p, err := readShamirParams(b); err == nil && (p.Shares > MaxShares || len(p.Checks) != p.Shares) {
			t.Fatal("out of bounds")
		}
		if err := readKeyFileParams(b); err != nil {
			want(t, err, fault.KeyMaterial)
		}
		if p, err := readDeviceParams(b); err != nil {
			want(t, err, fault.KeyMaterial)
		} else if again, err := encodeParams(p); err != nil {
			t.Fatal(err)
		} else if q, err := readDeviceParams(again); err != nil || *p != *q || !deviceID(q.Device) {
			t.Fatalf("read, written and read: %v", err)
		}
	})
}
