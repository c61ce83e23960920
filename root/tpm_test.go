package root

import (
	"bytes"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/tpm"
	"github.com/keywright/keywright/tpm/device"
)

func openTPM(t *testing.T) *tpm.Sealer {
	t.Helper()
	uri, err := device.ParseURI(rig.SWTPM(t).URI)
	if err != nil {
		t.Fatal(err)
	}
	d, err := device.Open(t.Context(), device.Options{Name: "tpm", URI: uri})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := tpm.NewSealer(d, tpm.SealerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Each machine of a cluster opens the root by the slot on its own TPM, and by no other's.
func TestTPMs(t *testing.T) {
	ctx := t.Context()
	here, there := openTPM(t), openTPM(t)
	m := new(memory)
	k := keeper(t, m)
	for name, s := range map[string]*tpm.Sealer{"here": here, "there": there} {
		if err := k.Attach(name, KindTPM, s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.Init(ctx, who, NewSlot{Device: "here"}); err != nil {
		t.Fatal(err)
	}
	secretRoot := bytes.Clone(k.root)
	if _, err := k.AddSlot(ctx, who, NewSlot{Kind: KindHSM, Device: "there"}); !fault.Has(err, fault.BadField) {
		t.Errorf("a slot of another kind than its device: %v", err)
	}
	if _, err := k.AddSlot(ctx, who, NewSlot{Device: "there"}); err != nil {
		t.Fatal(err)
	}
	if m.slots[0].Kind != KindTPM || m.slots[0].Device() != here.ID() || m.slots[1].Device() != there.ID() || here.ID() == there.ID() {
		t.Errorf("slots on %q and %q", m.slots[0].Device(), m.slots[1].Device())
	}
	both := m.slots
	open := func(slots []*Slot, name string, kind Kind, d Device) error {
		t.Helper()
		k := keeper(t, &memory{slots: slots})
		if err := k.Attach(name, kind, d); err != nil {
			t.Fatal(err)
		}
		err := k.UnlockDevices(ctx, who)
		if err == nil && !bytes.Equal(k.root, secretRoot) {
			t.Error("another root")
		}
		return err
	}
	for name, d := range map[string]Device{"one": here, "two": there} {
		if err := open(both, name, KindTPM, d); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := open(both[:1], "here", KindTPM, there); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("a slot of a machine that is not this one: %v", err)
	}
	if err := open(both, "here", KindHSM, here); !fault.Has(err, fault.BackendUnavailable) {
		t.Errorf("a device of another kind: %v", err)
	}
	// A slot that claims to be of this TPM, and one that was changed, are not: the TPM decides.
	moved, changed := *both[1], *both[0]
	moved.Params = both[0].Params
	changed.Sealed = bytes.Clone(changed.Sealed)
	changed.Sealed[len(changed.Sealed)-1] ^= 1
	for what, s := range map[string]*Slot{"moved": &moved, "changed": &changed} {
		if err := open([]*Slot{s}, "here", KindTPM, here); !fault.Has(err, fault.KeyMaterial) {
			t.Errorf("a slot that was %s: %v", what, err)
		}
	}
}

// TestRotateTPM: the TPM of this machine seals a new root by itself; a slot on another machine's has to be named.
func TestRotateTPM(t *testing.T) {
	here, there := openTPM(t), openTPM(t)
	ctx := t.Context()
	m := new(memory)
	k := keeper(t, m)
	for name, d := range map[string]Device{"here": here, "there": there} {
		if err := k.Attach(name, KindTPM, d); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.Init(ctx, who, NewSlot{Device: "here", Label: "this one"}); err != nil {
		t.Fatal(err)
	}
	other, err := k.AddSlot(ctx, who, NewSlot{Device: "there"})
	if err != nil {
		t.Fatal(err)
	}
	alone := keeper(t, m)
	if err := alone.Attach("here", KindTPM, here); err != nil {
		t.Fatal(err)
	}
	if err := alone.UnlockDevices(ctx, who); err != nil {
		t.Fatal(err)
	}
	_, err = alone.Rotate(ctx, who, Rotation{})
	want(t, err, fault.Conflict)
	done, err := alone.Rotate(ctx, who, Rotation{Drop: []uuid.UUID{other.Slot.ID}})
	if err != nil || len(done.Slots) != 1 || done.Slots[0].Slot.Device() != here.ID() || done.Slots[0].Slot.Label != "this one" {
		t.Fatalf("%+v, %v", done, err)
	}
	again := keeper(t, m)
	if err := again.Attach("here", KindTPM, here); err != nil {
		t.Fatal(err)
	}
	if err := again.UnlockDevices(ctx, who); err != nil || derive(t, again, "label") != derive(t, alone, "label") {
		t.Errorf("the TPM gives another root: %v", err)
	}
	// The other node's TPM has no slot any more, and this one's does not open there.
	if err := k.Follow(ctx, who); err != nil || k.Locked() {
		t.Errorf("a node with both did not follow: %v", err)
	}
}
