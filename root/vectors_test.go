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
	Slots []slotVector `json:"slots"`
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
	if len(v.Slots) == 0 || len(v.Derived) == 0 {
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
