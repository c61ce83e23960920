package qpher

import (
	"bytes"
	"math"
	"net/http"
	"testing"

	"github.com/go-json-experiment/json"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// TestAnswers: every answer is the JSON of its type, and fits the room that it asked for.
func TestAnswers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := Answer{algorithm: rapid.SampledFrom(Algorithms()).Draw(t, "algorithm"), tail: `,"wrapping_method":"KEM-DEM"`,
			used: keys.Used{Version: rapid.Uint32Min(1).Draw(t, "version"), Compromised: rapid.Bool().Draw(t, "compromised")}}
		first, second := rapid.SliceOf(rapid.Byte()).Draw(t, "first"), rapid.SliceOf(rapid.Byte()).Draw(t, "second")
		a.parts = [2]part{{"kem_ciphertext", first, false}, {"shared_secret", second, true}}
		a.isVerdict, a.valid = rapid.Bool().Draw(t, "verdict"), rapid.Bool().Draw(t, "valid")
		out := a.AppendJSON(nil)
		if len(out) > a.Size()-256 {
			t.Fatalf("%d bytes in %d leave no room for the envelope", len(out), a.Size())
		}
		var back struct {
			KEMCiphertext  []byte `json:"kem_ciphertext"`
			SharedSecret   []byte `json:"shared_secret"`
			Valid          *bool  `json:"valid"`
			WrappingMethod string `json:"wrapping_method"`
			Used
		}
		if err := json.Unmarshal(out, &back, json.RejectUnknownMembers(true)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(back.KEMCiphertext, first) || !bytes.Equal(back.SharedSecret, second) || back.KeyVersion != int64(a.used.Version) ||
			back.Algorithm != a.algorithm || (back.KeyState == "compromised") != a.used.Compromised || (back.Valid != nil) != a.isVerdict ||
			a.isVerdict && *back.Valid != a.valid || back.WrappingMethod != "KEM-DEM" {
			t.Fatalf("%s", out)
		}
		if s := a.Secrets(); len(s) != 1 || !bytes.Equal(s[0], second) {
			t.Fatalf("%d secrets", len(s))
		}
	})
}

// TestAlgorithms: each has a key of its own, whose name can be one, and an algorithm of the table.
func TestAlgorithms(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range append(kems(), signatures()...) {
		if _, ok := backend.Lookup(a.native); !ok || keys.CheckName(a.key) != nil || seen[a.key] || a.key != NamePrefix+a.name {
			t.Errorf("%+v", a)
		}
		seen[a.key] = true
	}
	if a, err := find("", kems()); err != nil || a.name != "Kyber768" {
		t.Errorf("%+v %v", a, err)
	}
	if a, err := find("", signatures()); err != nil || a.name != "Dilithium3" {
		t.Errorf("%+v %v", a, err)
	}
	for _, name := range []string{"kyber768", "Kyber768 ", "ML-KEM-768", "Kyber1024"} {
		if _, err := find(name, kems()); !fault.Has(err, fault.BadAlgorithm) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := required(""); !fault.Has(err, fault.MissingField) {
		t.Error(err)
	}
}

func TestVersionNumbers(t *testing.T) {
	a := kems()[0]
	for n, want := range map[int64]fault.Code{math.MinInt64: fault.MissingField, -1: fault.MissingField, 0: fault.MissingField, 1: "", math.MaxUint32: "",
		math.MaxUint32 + 1: fault.VersionNotFound, math.MaxInt64: fault.VersionNotFound} {
		target, err := a.target(n)
		if fault.CodeOf(err) != want || err == nil && (int64(target.Version) != n || target.Key != a.key || target.Algorithm != a.native) {
			t.Errorf("%d: %+v %v", n, target, err)
		}
	}
}

// TestStatuses: what a status allows is what the state behind it does.
func TestStatuses(t *testing.T) {
	for state, want := range map[keys.State]string{keys.StateActive: "active", keys.StateDeactivated: "retired", keys.StateCompromised: "retired",
		keys.StateSuspended: "archived", keys.StatePreActive: "archived", keys.StatePendingImport: "archived", keys.StatePendingDeletion: "archived",
		keys.StateDestroyed: "archived", keys.StateCreating: "archived", "": "archived"} {
		if got := statusOf(state); got != want {
			t.Errorf("%s is %s", state, got)
		}
	}
}

// TestEveryStatusHasACode: whatever status the native API comes to give a code that this package does not know, it has a place here.
func TestEveryStatusHasACode(t *testing.T) {
	for native := 400; native < 600; native++ {
		status, code := Shown(GroupKMS, "ERR_OF_TOMORROW", native)
		found := false
		for _, e := range Errors() {
			found = found || e.Code == code && e.Status == status
		}
		if !found || status/100 != native/100 {
			t.Errorf("%d becomes %d %s", native, status, code)
		}
	}
	if status, code := Shown(GroupKEM, fault.BadState, http.StatusConflict); status != 404 || code != "ERR_KEM_005" {
		t.Error(status, code)
	}
}
