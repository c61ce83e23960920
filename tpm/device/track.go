package device

import (
	"encoding/binary"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// The first octet of a handle is its type (TPM 2.0 part 2, 7.2).
func isTransient(h uint32) bool { return h>>24 == 0x80 }
func isSession(h uint32) bool   { return h>>24 == 0x02 || h>>24 == 0x03 }

// The fields of a TPMA_CC (part 2, 8.9) that tell a resource manager what a command does with handles.
func handlesIn(a uint32) int    { return int(a >> 25 & 7) }
func handleOut(a uint32) bool   { return a>>28&1 != 0 }
func flushesIn(a uint32) bool   { return a>>24&1 != 0 }
func flushesMany(a uint32) bool { return a>>23&1 != 0 }

// note remembers what a command that was carried out has loaded and flushed.
func (tx *Tx) note(command, rsp []byte) {
	cc := binary.BigEndian.Uint32(command[6:])
	tx.effect = tx.effect || !harmless(tpm2.TPMCC(cc))
	if tpm2.TPMCC(cc) == tpm2.TPMCCFlushContext && len(command) >= 14 {
		tx.gone(binary.BigEndian.Uint32(command[10:]))
		return
	}
	a, known := tx.d.commands[cc]
	if !known {
		return
	}
	if handleOut(a) && len(rsp) >= 14 {
		if h := binary.BigEndian.Uint32(rsp[10:]); isTransient(h) || isSession(h) {
			tx.loaded = append(tx.loaded, h)
		}
	}
	if flushesIn(a) {
		for i := range handlesIn(a) {
			if at := 10 + 4*i; len(command) >= at+4 && isTransient(binary.BigEndian.Uint32(command[at:])) {
				tx.gone(binary.BigEndian.Uint32(command[at:]))
			}
		}
	}
	for s := range sessionsOf(command, handlesIn(a)) {
		if s.attributes&attrContinue == 0 {
			tx.gone(s.handle)
		}
	}
	if flushesMany(a) {
		tx.suspect = true // TPM2_Clear and its like may have flushed the parent
	}
}

// gone forgets a handle that is not loaded any more.
func (tx *Tx) gone(handle uint32) {
	d := tx.d
	tx.keep(handle)
	d.kept = slices.DeleteFunc(d.kept, func(k *kept) bool { return uint32(k.object.Handle) == handle })
	d.cores = slices.DeleteFunc(d.cores, func(c *core) bool {
		if uint32(c.handle) != handle {
			return false
		}
		clear(c.key)
		return true
	})
	if handle == uint32(d.parent.handle.Handle) && isTransient(handle) {
		tx.suspect = true
	}
}

// used is a session in the authorisation area of a command.
type used struct {
	handle     uint32
	attributes byte
}

// sessionsOf gives the sessions of a command (part 1, 18.4). What is cut short gives fewer.
func sessionsOf(command []byte, handles int) func(func(used) bool) {
	return func(yield func(used) bool) {
		at := headerSize + 4*handles
		if len(command) < at+4 || binary.BigEndian.Uint16(command) != tagSessions {
			return
		}
		end := at + 4 + int(min(binary.BigEndian.Uint32(command[at:]), bufferSize))
		if end > len(command) {
			return
		}
		for at += 4; at+6 <= end; {
			s := used{handle: binary.BigEndian.Uint32(command[at:])}
			at += 6 + int(binary.BigEndian.Uint16(command[at+4:])) // over the nonce
			if at+3 > end {
				return
			}
			s.attributes = command[at]
			at += 3 + int(binary.BigEndian.Uint16(command[at+1:])) // over the HMAC
			if s.handle != uint32(tpm2.TPMRSPW) && !yield(s) {
				return
			}
		}
	}
}

// coresOf gives the shared sessions that the command uses.
func (d *Device) coresOf(command []byte) (cores []*core) {
	a, known := d.commands[binary.BigEndian.Uint32(command[6:])]
	if !known || len(d.cores) == 0 {
		return nil
	}
	for s := range sessionsOf(command, handlesIn(a)) {
		for _, c := range d.cores {
			if uint32(c.handle) == s.handle {
				cores = append(cores, c)
			}
		}
	}
	return cores
}

// harmless reports whether a command changes nothing that outlives the transaction, so that it may be given again after a reset.
func harmless(cc tpm2.TPMCC) bool {
	switch cc {
	case tpm2.TPMCCLoad, tpm2.TPMCCLoadExternal, tpm2.TPMCCFlushContext, tpm2.TPMCCStartAuthSession, tpm2.TPMCCContextSave, tpm2.TPMCCContextLoad,
		tpm2.TPMCCCreatePrimary, tpm2.TPMCCGetCapability, tpm2.TPMCCReadPublic, tpm2.TPMCCNVReadPublic, tpm2.TPMCCNVRead, tpm2.TPMCCPCRRead,
		tpm2.TPMCCReadClock, tpm2.TPMCCGetRandom, tpm2.TPMCCTestParms, tpm2.TPMCCStartup, tpm2.TPMCCSelfTest, tpm2.TPMCCGetTestResult,
		tpm2.TPMCCHash, tpm2.TPMCCVerifySignature,
		tpm2.TPMCCPolicyAuthorize, tpm2.TPMCCPolicyAuthValue, tpm2.TPMCCPolicyCommandCode, tpm2.TPMCCPolicyCounterTimer, tpm2.TPMCCPolicyCpHash,
		tpm2.TPMCCPolicyGetDigest, tpm2.TPMCCPolicyNameHash, tpm2.TPMCCPolicyOR, tpm2.TPMCCPolicyPassword, tpm2.TPMCCPolicyPCR,
		tpm2.TPMCCPolicyRestart, tpm2.TPMCCPolicyDuplicationSelect, tpm2.TPMCCPolicyNV, tpm2.TPMCCPolicyTemplate:
		return true
	}
	return false
}
