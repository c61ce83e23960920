package root

import (
	"bytes"
	"encoding/hex"
	"log/slog"
	"os"
	"testing"

	json "github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/keywright/keywright/secret"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	*h = b
	return err
}

type slotVector struct {
	Name       string    `json:"name"`
	ID         uuid.UUID `json:"id"`
	Kind       Kind      `json:"kind"`
	Params     string    `json:"params"`
	Passphrase string    `json:"passphrase"`
	KeyFile    string    `json:"key_file"`
	Shares     []string  `json:"shares"`
	SlotSecret hexBytes  `json:"slot_secret"`
	SlotKey    hexBytes  `json:"slot_key"`
	Binding    hexBytes  `json:"binding"`
	Sealed     hexBytes  `json:"sealed"`
}

type slotVectors struct {
	Format  string   `json:"format"`
	Note    string   `json:"note"`
	Root    hexBytes `json:"root"`
	Derived []struct {
		Label string   `json:"label"`
		Key   hexBytes `json:"key"`
	} `json:"derived"`
	Slots   []slotVector   `json:"slots"`
	Devices []deviceVector `json:"device_slots"`
	Later   []struct {
		slotVector
		Generation uint32   `json:"generation"`
		Root       hexBytes `json:"root"`
	} `json:"later_slots"`
	Keyring []keptVector `json:"keyring"`
}

type keptVector struct {
	Name       string   `json:"name"`
	Kind       KeptKind `json:"kind"`
	Under      uint32   `json:"under"`
	Generation uint32   `json:"generation"`
	Label      string   `json:"label"`
	Root       hexBytes `json:"root"` // that it is sealed under
	Key        hexBytes `json:"key"`
	Binding    hexBytes `json:"binding"`
	Value      hexBytes `json:"value"`
	Sealed     hexBytes `json:"sealed"`
}

func (v *keptVector) entry() *Kept {
	return &Kept{Kind: v.Kind, Under: v.Under, Generation: v.Generation, Label: v.Label, Sealed: v.Sealed}
}

// deviceVector is a slot that a device seals: what it seals under is its own, what it binds it to is ours.
type deviceVector struct {
	Name          string    `json:"name"`
	ID            uuid.UUID `json:"id"`
	Kind          Kind      `json:"kind"`
	Params        string    `json:"params"`
	Device        string    `json:"device"`
	Binding       hexBytes  `json:"binding"`
	DeviceBinding hexBytes  `json:"device_binding"`
}

func loadSlots(t testing.TB) (v slotVectors) {
	t.Helper()
	b, err := os.ReadFile("../docs/formats/vectors/root-slots.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	if len(v.Slots) == 0 || len(v.Derived) == 0 || len(v.Devices) == 0 || len(v.Later) == 0 || len(v.Keyring) == 0 {
		t.Fatal("no vectors")
	}
	return v
}

// Every slot of the vectors opens by what its owner would have, to the root that gives the derived keys.
func TestVectors(t *testing.T) {
	vectors := loadSlots(t)
	m := new(memory)
	for _, v := range vectors.Slots {
		m.slots = append(m.slots, &Slot{ID: v.ID, Kind: v.Kind, Params: []byte(v.Params), Sealed: v.Sealed})
	}
	for i, v := range vectors.Slots {
		t.Run(v.Name, func(t *testing.T) {
			if b := m.slots[i].binding(); !bytes.Equal(b, v.Binding) {
				t.Errorf("binding %x", b)
			}
			key, err := slotKey(v.ID, v.Kind, secret.Bytes(v.SlotSecret))
			if err != nil || !bytes.Equal(key, v.SlotKey) {
				t.Errorf("slot key %x, %v", []byte(key), err)
			}
			k := New(m, m, Options{Logger: slog.New(slog.DiscardHandler)})
			defer k.Close()
			switch v.Kind {
			case KindPassphrase:
				err = k.UnlockPassphrase(t.Context(), who, secret.Bytes(v.Passphrase))
			case KindKeyFile:
				file, perr := ParseKeyFile([]byte(v.KeyFile))
				if perr != nil {
					t.Fatal(perr)
				}
				err = k.UnlockKeyFile(t.Context(), who, file)
			case KindShamir:
				_, err = k.UnlockShares(t.Context(), who, v.Shares[1:])
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(k.root, vectors.Root) {
				t.Error("another root")
			}
			for _, d := range vectors.Derived {
				if derive(t, k, d.Label) != string(d.Key) {
					t.Errorf("another key for %q", d.Label)
				}
			}
		})
	}
}

// A slot of a later generation, and what the keyring keeps under it.
func TestKeyringVectors(t *testing.T) {
	vectors := loadSlots(t)
	m := &memory{newest: 2}
	for _, v := range vectors.Keyring {
		e := v.entry()
		if b := e.binding(); !bytes.Equal(b, v.Binding) {
			t.Errorf("%s: binding %x", v.Name, b)
		}
		if key, err := expand(secret.Bytes(v.Root), labelKeyring); err != nil || !bytes.Equal(key, v.Key) {
			t.Errorf("%s: key %x, %v", v.Name, []byte(key), err)
		}
		if value, err := e.open(secret.Bytes(v.Root)); err != nil || !bytes.Equal(value, v.Value) {
			t.Errorf("%s: opened to %x, %v", v.Name, []byte(value), err)
		}
		for _, change := range []func(e *Kept){func(e *Kept) { e.Kind = "other" }, func(e *Kept) { e.Under++ }, func(e *Kept) { e.Generation++ }, func(e *Kept) { e.Label += "x" }} {
			e := v.entry()
			change(e)
			if _, err := e.open(secret.Bytes(v.Root)); err == nil {
				t.Errorf("%s: opened as %+v", v.Name, e)
			}
		}
		m.kept = append(m.kept, e)
	}
	for _, v := range vectors.Later {
		s := &Slot{ID: v.ID, Kind: v.Kind, Params: []byte(v.Params), Sealed: v.Sealed, Generation: v.Generation}
		if b := s.binding(); !bytes.Equal(b, v.Binding) {
			t.Errorf("%s: binding %x", v.Name, b)
		}
		m.slots = append(m.slots, s)
		file, err := ParseKeyFile([]byte(v.KeyFile))
		if err != nil {
			t.Fatal(err)
		}
		k := keeper(t, m)
		if err := k.UnlockKeyFile(t.Context(), who, file); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(k.root, v.Root) || k.generation != v.Generation || !bytes.Equal(k.earlier[1], vectors.Root) {
			t.Errorf("%s: another root", v.Name)
		}
		for _, d := range vectors.Derived {
			if old, err := k.DeriveAt(d.Label, 1); err != nil || !bytes.Equal(old, d.Key) {
				t.Errorf("%s under the first root: %v", d.Label, err)
			}
			carried := d.Label == "keywright/v1/api-key-pepper"
			if (derive(t, k, d.Label) == string(d.Key)) != carried {
				t.Errorf("%s: carried should be %v", d.Label, carried)
			}
		}
	}
}

func TestDeviceVectors(t *testing.T) {
	for _, v := range loadSlots(t).Devices {
		s := &Slot{ID: v.ID, Kind: v.Kind, Params: []byte(v.Params)}
		if s.Device() != v.Device || !bytes.Equal(s.binding(), v.Binding) || !bytes.Equal(s.deviceBinding(), v.DeviceBinding) {
			t.Errorf("%s: device %q, bindings %x and %x", v.Name, s.Device(), s.binding(), s.deviceBinding())
		}
		params, err := encodeParams(&deviceParams{Version: slotVersion, Device: v.Device})
		if err != nil || string(params) != v.Params {
			t.Errorf("%s: written as %s, %v", v.Name, params, err)
		}
	}
	for _, kind := range []Kind{KindPassphrase, KindKeyFile, KindShamir, "tpm2"} {
		if s := (&Slot{Kind: kind, Params: []byte(loadSlots(t).Devices[0].Params)}); s.Device() != "" || kind.OnDevice() {
			t.Errorf("a slot of kind %s is on %q", kind, s.Device())
		}
	}
}
