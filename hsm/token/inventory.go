package token

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/fault"
)

// Inventory is what a module shows to anybody: no login, no session. It is for people who look for the token to configure.
type Inventory struct {
	Module   string          `json:"module"`
	Library  string          `json:"library"` // C_GetInfo's description and version, as in Description
	Maker    string          `json:"library_manufacturer"`
	Cryptoki string          `json:"cryptoki"` // the version of PKCS#11 that it says it speaks
	Slots    []SlotInventory `json:"slots"`
}

// SlotInventory is a slot; without a token only its description is known.
type SlotInventory struct {
	Slot         uint             `json:"slot"` // moves between starts: never a name for a token
	Description  string           `json:"description"`
	Token        bool             `json:"token_present"`
	Label        string           `json:"label,omitempty"`
	Serial       string           `json:"serial,omitempty"`
	Manufacturer string           `json:"manufacturer,omitempty"`
	Model        string           `json:"model,omitempty"`
	Firmware     string           `json:"firmware,omitempty"`
	MaxSessions  int              `json:"max_sessions,omitempty"` // 0: not limited, or not told
	Flags        []string         `json:"flags,omitempty"`        // of CK_TOKEN_INFO, those that an operator acts on
	Mechanisms   []MechanismEntry `json:"mechanisms,omitempty"`
}

// MechanismEntry is a mechanism that a token lists. That it is listed does not say that it works: Open tries.
type MechanismEntry struct {
	Name    string   `json:"name"` // CKM_…, or the number in hexadecimal
	Type    uint     `json:"type"`
	MinSize uint     `json:"min_size"` // bits or bytes, as the mechanism has it
	MaxSize uint     `json:"max_size"`
	Uses    []string `json:"uses,omitempty"` // what its flags say it can be used for
}

// tokenFlags and mechanismUses name bits of CK_TOKEN_INFO.flags and CK_MECHANISM_INFO.flags (PKCS#11 base specification 2.40,
// sections 3.2 and 3.5). Read-only.
var tokenFlags = []struct {
	bit  uint
	name string
}{
	{pkcs11.CKF_TOKEN_INITIALIZED, "initialized"}, {pkcs11.CKF_USER_PIN_INITIALIZED, "pin-set"}, {pkcs11.CKF_LOGIN_REQUIRED, "login-required"},
	{pkcs11.CKF_WRITE_PROTECTED, "write-protected"}, {pkcs11.CKF_PROTECTED_AUTHENTICATION_PATH, "pin-pad"},
	{pkcs11.CKF_USER_PIN_COUNT_LOW, "pin-was-wrong"}, {pkcs11.CKF_USER_PIN_FINAL_TRY, "pin-final-try"}, {pkcs11.CKF_USER_PIN_LOCKED, "pin-locked"},
	{pkcs11.CKF_USER_PIN_TO_BE_CHANGED, "pin-to-be-changed"},
}

var mechanismUses = []struct {
	bit  uint
	name string
}{
	{pkcs11.CKF_HW, "hardware"}, {pkcs11.CKF_ENCRYPT, "encrypt"}, {pkcs11.CKF_DECRYPT, "decrypt"}, {pkcs11.CKF_DIGEST, "digest"},
	{pkcs11.CKF_SIGN, "sign"}, {pkcs11.CKF_VERIFY, "verify"}, {pkcs11.CKF_GENERATE, "generate"}, {pkcs11.CKF_GENERATE_KEY_PAIR, "generate-pair"},
	{pkcs11.CKF_WRAP, "wrap"}, {pkcs11.CKF_UNWRAP, "unwrap"}, {pkcs11.CKF_DERIVE, "derive"},
	{ckfEncapsulate, "encapsulate"}, {ckfDecapsulate, "decapsulate"},
}

// Inspect loads a module, lists what it has, and finalizes it. A module that hangs or crashes takes its caller along, so it belongs
// in a process of its own; no Token of the module may be open in it. Errors are fault.BackendUnavailable.
func Inspect(path, initArgs string) (out Inventory, err error) {
	m, err := load(path, initArgs)
	if err != nil {
		return out, fault.Wrap(fault.BackendUnavailable, "the PKCS#11 module cannot be loaded", err)
	}
	defer m.release()
	if err := m.initialize(); err != nil {
		return out, fault.Wrap(fault.BackendUnavailable, "the PKCS#11 module does not initialise", err)
	}
	defer func() {
		if ferr := m.finalize(); ferr != nil {
			err = errors.Join(err, fault.Wrap(fault.BackendUnavailable, "the PKCS#11 module does not finalize", ferr))
		}
	}()
	out.Module = path
	info, err := m.GetInfo()
	if err != nil {
		return out, fault.Wrap(fault.BackendUnavailable, "the PKCS#11 module does not describe itself", err)
	}
	out.Library = fmt.Sprintf("%s %d.%d", trim(info.LibraryDescription), info.LibraryVersion.Major, info.LibraryVersion.Minor)
	out.Maker = trim(info.ManufacturerID)
	out.Cryptoki = fmt.Sprintf("%d.%d", info.CryptokiVersion.Major, info.CryptokiVersion.Minor)
	slots, err := m.GetSlotList(false)
	if err != nil {
		return out, fault.Wrap(fault.BackendUnavailable, "the PKCS#11 module does not list its slots", err)
	}
	out.Slots = []SlotInventory{}
	for _, slot := range slots {
		s, err := m.inspectSlot(slot)
		if err != nil {
			return out, fault.Wrap(fault.BackendUnavailable, fmt.Sprintf("slot %d cannot be looked at", slot), err)
		}
		out.Slots = append(out.Slots, s)
	}
	return out, nil
}

func (m *module) inspectSlot(slot uint) (SlotInventory, error) {
	out := SlotInventory{Slot: slot}
	info, err := m.GetSlotInfo(slot)
	if err != nil {
		return out, err
	}
	out.Description = trim(info.SlotDescription)
	t, err := m.GetTokenInfo(slot)
	if is(err, pkcs11.CKR_TOKEN_NOT_PRESENT) || is(err, pkcs11.CKR_TOKEN_NOT_RECOGNIZED) || is(err, pkcs11.CKR_DEVICE_REMOVED) {
		return out, nil // an empty slot
	}
	if err != nil {
		return out, err
	}
	out.Token, out.Label, out.Serial = true, trim(t.Label), trim(t.SerialNumber)
	out.Manufacturer, out.Model = trim(t.ManufacturerID), trim(t.Model)
	out.Firmware = fmt.Sprintf("%d.%d", t.FirmwareVersion.Major, t.FirmwareVersion.Minor)
	if n := t.MaxSessionCount; n > 0 && n < 1<<30 { // what cannot be is "not told"
		out.MaxSessions = int(n)
	}
	for _, f := range tokenFlags {
		if t.Flags&f.bit != 0 {
			out.Flags = append(out.Flags, f.name)
		}
	}
	numbers, err := m.mechanisms(slot)
	if err != nil {
		return out, err
	}
	for _, n := range numbers {
		e := Mechanism{Type: n, Name: mechanismName(n)}
		// Some tokens list what they then say nothing about: it stays in the list.
		if info, err := m.GetMechanismInfo(slot, []*pkcs11.Mechanism{flat(n, nil)}); err == nil {
			e.MinSize, e.MaxSize, e.Flags = info.MinKeySize, info.MaxKeySize, info.Flags
		}
		out.Mechanisms = append(out.Mechanisms, e.Entry())
	}
	return out, nil
}

// Entry is the mechanism as an Inventory shows it.
func (m Mechanism) Entry() MechanismEntry {
	e := MechanismEntry{Type: m.Type, Name: m.Name, MinSize: m.MinSize, MaxSize: m.MaxSize}
	if e.Name == "" {
		e.Name = fmt.Sprintf("%#x", m.Type)
	}
	for _, u := range mechanismUses {
		if m.Flags&u.bit != 0 {
			e.Uses = append(e.Uses, u.name)
		}
	}
	return e
}
