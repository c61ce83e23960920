package device

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Info is what a TPM says of itself, as of its last start. It is a copy.
type Info struct {
	Manufacturer string // four characters of the TCG vendor registry, such as "IBM" or "IFX"
	Vendor       string // what the vendor calls it
	Firmware     uint64
	Revision     uint32 // of the specification, times 100: 138, 159, 164
	Algorithms   []tpm2.TPMAlgID
	Curves       []tpm2.TPMECCCurve
	Commands     []tpm2.TPMCC

	Transient    int // slots for objects, the parent's included
	Sessions     int // that may be loaded at once
	InputBuffer  int // octets of data in one command, such as TPM2_EncryptDecrypt2
	NVBuffer     int // octets of one TPM2_NV_Read
	MaxDigest    int // octets of the largest digest
	ParentHandle uint32
	ParentName   []byte

	// Whether the hierarchies have passwords.
	OwnerAuthSet, EndorsementAuthSet, LockoutAuthSet bool

	Lockout Lockout
}

// Lockout is the state of the protection against guessing passwords (TPM 2.0 part 1, 19.8).
type Lockout struct {
	Counter  uint32        // wrong passwords counted
	Max      uint32        // at so many the TPM locks
	Interval time.Duration // after which the counter falls by one
	Recovery time.Duration // after which the lockout password may be tried again
	Locked   bool
}

// Has reports whether the TPM has a command.
func (i *Info) Has(cc tpm2.TPMCC) bool { return slices.Contains(i.Commands, cc) }

// HasAlgorithm reports whether the TPM has an algorithm.
func (i *Info) HasAlgorithm(a tpm2.TPMAlgID) bool { return slices.Contains(i.Algorithms, a) }

// HasCurve reports whether the TPM has a curve.
func (i *Info) HasCurve(c tpm2.TPMECCCurve) bool { return slices.Contains(i.Curves, c) }

// Info gives what is known of the TPM without asking it.
func (d *Device) Info() Info {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := d.info
	i.Algorithms, i.Curves, i.Commands = slices.Clone(i.Algorithms), slices.Clone(i.Curves), slices.Clone(i.Commands)
	i.ParentName = slices.Clone(i.ParentName)
	return i
}

// survey reads what the TPM is.
func (d *Device) survey(tx *Tx) (Info, error) {
	var i Info
	commands, err := commandAttributes(tx)
	if err != nil {
		return i, err
	}
	d.commands = commands
	for cc := range commands {
		i.Commands = append(i.Commands, tpm2.TPMCC(cc))
	}
	slices.Sort(i.Commands)
	p, err := properties(tx, tpm2.TPMPTFamilyIndicator)
	if err != nil {
		return i, err
	}
	i.Manufacturer = text(p[tpm2.TPMPTManufacturer])
	i.Vendor = text(p[tpm2.TPMPTVendorString1], p[tpm2.TPMPTVendorString2], p[tpm2.TPMPTVendorString3], p[tpm2.TPMPTVendorString4])
	i.Firmware = uint64(p[tpm2.TPMPTFirmwareVersion1])<<32 | uint64(p[tpm2.TPMPTFirmwareVersion2])
	i.Revision = p[tpm2.TPMPTRevision]
	i.Transient, i.Sessions = int(p[tpm2.TPMPTHRTransientMin]), int(p[tpm2.TPMPTHRLoadedMin])
	i.InputBuffer, i.NVBuffer, i.MaxDigest = int(p[tpm2.TPMPTInputBuffer]), int(p[tpm2.TPMPTNVBufferMax]), int(p[tpm2.TPMPTMaxDigest])
	d.slots = max(i.Transient, 3) // part 2, 6.13 and every profile: at least three
	if p, err = properties(tx, tpm2.TPMPTPermanent); err != nil {
		return i, err
	}
	// TPMA_PERMANENT (part 2, 8.6)
	permanent := p[tpm2.TPMPTPermanent]
	i.OwnerAuthSet, i.EndorsementAuthSet, i.LockoutAuthSet = permanent&1 != 0, permanent&2 != 0, permanent&4 != 0
	i.Lockout = lockout(p)
	if i.Algorithms, err = algorithms(tx); err != nil {
		return i, err
	}
	i.Curves, err = curves(tx)
	return i, err
}

func lockout(p map[tpm2.TPMPT]uint32) Lockout {
	return Lockout{
		Counter: p[tpm2.TPMPTLockoutCounter], Max: p[tpm2.TPMPTMaxAuthFail],
		Interval: time.Duration(p[tpm2.TPMPTLockoutInterval]) * time.Second, Recovery: time.Duration(p[tpm2.TPMPTLockoutRecovery]) * time.Second,
		Locked: p[tpm2.TPMPTPermanent]&(1<<9) != 0,
	}
}

func algorithms(tx *Tx) (all []tpm2.TPMAlgID, err error) {
	for first := uint32(0); ; {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapAlgs, Property: first, PropertyCount: 127}.Execute(tx)
		if err != nil {
			return nil, fmt.Errorf("listing algorithms: %w", err)
		}
		list, err := rsp.CapabilityData.Data.Algorithms()
		if err != nil {
			return nil, err
		}
		for _, a := range list.AlgProperties {
			all = append(all, a.Alg)
			first = uint32(a.Alg) + 1
		}
		if !rsp.MoreData || len(list.AlgProperties) == 0 {
			return all, nil
		}
	}
}

func curves(tx *Tx) (all []tpm2.TPMECCCurve, err error) {
	for first := uint32(0); ; {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapECCCurves, Property: first, PropertyCount: 127}.Execute(tx)
		if err != nil {
			return nil, fmt.Errorf("listing curves: %w", err)
		}
		list, err := rsp.CapabilityData.Data.ECCCurves()
		if err != nil {
			return nil, err
		}
		all = append(all, list.ECCCurves...)
		if !rsp.MoreData || len(list.ECCCurves) == 0 {
			return all, nil
		}
		first = uint32(all[len(all)-1]) + 1
	}
}

// text reads words that hold characters, without the padding.
func text(words ...uint32) string {
	var b []byte
	for _, w := range words {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return -1
		}
		return r
	}, string(b)))
}

// lockoutWait is how long it takes at most until the TPM counts one wrong password less.
func (d *Device) lockoutWait() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return max(d.info.Lockout.Interval, time.Second)
}
