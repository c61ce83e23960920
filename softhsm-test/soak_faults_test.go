package softhsmtest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keywright/keywright/softhsm-test/rig"
)

// soakFunctions are those that the service calls.
var soakFunctions = strings.Fields(`C_Initialize C_Finalize C_GetInfo C_GetSlotList C_GetTokenInfo C_GetMechanismList C_GetMechanismInfo C_OpenSession
	C_CloseSession C_CloseAllSessions C_GetSessionInfo C_Login C_CreateObject C_DestroyObject C_GetAttributeValue C_SetAttributeValue
	C_FindObjectsInit C_FindObjects C_FindObjectsFinal C_EncryptInit C_Encrypt C_DecryptInit C_Decrypt C_SignInit C_Sign C_GenerateKey
	C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey C_GenerateRandom`)

// soakWork are those of them that operations end in; they get most of the faults.
var soakWork = strings.Fields(`C_EncryptInit C_Encrypt C_DecryptInit C_Decrypt C_SignInit C_Sign C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey
	C_FindObjectsInit C_FindObjects C_GetAttributeValue C_OpenSession C_DestroyObject`)

// soakErrors are values of CKR. Numbers are those that the fault module has no name for, one of a vendor, and one that nobody knows.
var soakErrors = strings.Fields(`CKR_CANCEL CKR_HOST_MEMORY CKR_SLOT_ID_INVALID CKR_GENERAL_ERROR CKR_FUNCTION_FAILED CKR_ARGUMENTS_BAD CKR_CANT_LOCK
	CKR_ATTRIBUTE_READ_ONLY CKR_ATTRIBUTE_SENSITIVE CKR_ATTRIBUTE_TYPE_INVALID CKR_ATTRIBUTE_VALUE_INVALID CKR_DATA_INVALID CKR_DATA_LEN_RANGE
	CKR_DEVICE_ERROR CKR_DEVICE_MEMORY CKR_DEVICE_REMOVED CKR_ENCRYPTED_DATA_INVALID CKR_ENCRYPTED_DATA_LEN_RANGE CKR_FUNCTION_CANCELED
	0x51 CKR_FUNCTION_NOT_SUPPORTED CKR_KEY_HANDLE_INVALID CKR_KEY_SIZE_RANGE CKR_KEY_TYPE_INCONSISTENT 0x65
	CKR_KEY_FUNCTION_NOT_PERMITTED CKR_KEY_NOT_WRAPPABLE CKR_KEY_UNEXTRACTABLE CKR_MECHANISM_INVALID CKR_MECHANISM_PARAM_INVALID
	CKR_OBJECT_HANDLE_INVALID CKR_OPERATION_ACTIVE CKR_OPERATION_NOT_INITIALIZED CKR_SESSION_CLOSED CKR_SESSION_COUNT CKR_SESSION_HANDLE_INVALID
	CKR_SESSION_READ_ONLY CKR_SIGNATURE_INVALID CKR_SIGNATURE_LEN_RANGE CKR_TEMPLATE_INCOMPLETE CKR_TEMPLATE_INCONSISTENT
	CKR_TOKEN_NOT_PRESENT CKR_TOKEN_NOT_RECOGNIZED CKR_TOKEN_WRITE_PROTECTED CKR_USER_NOT_LOGGED_IN 0x104
	CKR_WRAPPED_KEY_INVALID CKR_WRAPPED_KEY_LEN_RANGE 0x121 CKR_BUFFER_TOO_SMALL CKR_CRYPTOKI_NOT_INITIALIZED 0x1a0
	CKR_FUNCTION_REJECTED CKR_PIN_EXPIRED CKR_PIN_INCORRECT 0x80000042 0x7fffffff`)

// soakPatience is how long callers wait for an answer.
const soakPatience = 2 * time.Second

// mischief does random faults to devices until the time is over.
type mischief struct {
	t       *testing.T
	devices []*rig.FaultModule
	random  *rand.Rand
	counts  map[string]int
}

func pick[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

// function is one that a fault is for.
func (f *mischief) function() string {
	if f.random.IntN(4) > 0 {
		return pick(f.random, soakWork)
	}
	return pick(f.random, soakFunctions)
}

// calls chooses among the calls: a few of them, or a share.
func (f *mischief) calls() []string {
	if f.random.IntN(2) == 0 {
		return []string{fmt.Sprintf("times=%d", 1+f.random.IntN(4))}
	}
	return []string{fmt.Sprintf("p=%.2f", pick(f.random, []float64{0.01, 0.1, 0.5, 1})), fmt.Sprintf("seed=%d", f.random.IntN(1000))}
}

// run does one fault after the other, sometimes several at once.
func (f *mischief) run(until time.Time) {
	f.t.Helper()
	for time.Now().Before(until) {
		d := pick(f.random, f.devices)
		for range 1 + f.random.IntN(2) {
			f.one(d)
		}
		wait := time.Duration(50+f.random.IntN(700)) * time.Millisecond
		if f.random.IntN(8) == 0 {
			wait += soakPatience + time.Second // so that what hangs is given up, and its process killed
		}
		time.Sleep(wait)
		if f.random.IntN(8) > 0 { // else the next one comes on top
			d.Clear(f.t)
		}
		time.Sleep(time.Duration(f.random.IntN(500)) * time.Millisecond)
	}
	for _, d := range f.devices {
		d.Clear(f.t)
	}
}

func (f *mischief) one(d *rig.FaultModule) {
	t, r := f.t, f.random
	kinds := []struct {
		name  string
		often int
		do    func()
	}{
		{"error", 8, func() {
			options := f.calls()
			if r.IntN(3) == 0 {
				options = append(options, "at=after")
			}
			fn, rv := f.function(), pick(r, soakErrors)
			if fn == "C_Login" && strings.Contains(rv, "PIN") {
				rv = "CKR_DEVICE_ERROR" // after a refused PIN the service never logs in again, which has its own tests
			}
			d.Set(t, fn, rv, options...)
		}},
		{"hang", 2, func() { d.Hang(t, f.function(), fmt.Sprintf("times=%d", 1+r.IntN(6))) }},
		{"crash", 2, func() {
			d.Crash(t, f.function(), pick(r, []string{"segv", "abort", "exit", "kill"}), "times=1", fmt.Sprintf("skip=%d", r.IntN(50)))
		}},
		{"length", 3, func() {
			d.Length(t, f.function(), pick(r, []string{"-1", "+1", "+16", "-16", "=0", "=3", "+100000"}), append(f.calls(), pick(r, []string{"on=data", "on=query", "on=both"}))...)
		}},
		{"slow", 1, func() { d.Delay(t, f.function(), time.Duration(1+r.IntN(30))*time.Millisecond) }},
		{"sessions dropped", 2, func() { d.DropSessions(t) }},
		{"token gone", 2, func() { d.TokenGone(t, pick(r, [][]string{nil, {"as=empty"}, {"rv=CKR_TOKEN_NOT_PRESENT"}})...) }},
		{"wedge", 1, func() { d.Wedge(t) }},
		{"few sessions", 1, func() { d.LimitSessions(t, 6+r.IntN(10), pick(r, []int{-1, 0})) }},
		{"killed", 2, func() {
			if list := d.Processes(t); len(list) > 0 {
				if err := syscall.Kill(pick(r, list).PID, syscall.SIGKILL); err != nil && err != syscall.ESRCH { //nolint:errorlint // a bare errno
					t.Error(err)
				}
			}
		}},
	}
	sum := 0
	for _, k := range kinds {
		sum += k.often
	}
	n := r.IntN(sum)
	for _, k := range kinds {
		if n -= k.often; n < 0 {
			f.counts[k.name]++
			k.do()
			return
		}
	}
}
