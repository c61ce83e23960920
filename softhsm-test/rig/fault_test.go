package rig_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/softhsm-test/rig"
)

const (
	deviceError   = pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)
	deviceRemoved = pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED)
	sessionGone   = pkcs11.Error(pkcs11.CKR_SESSION_HANDLE_INVALID)
)

// device is the fault module before SoftHSM, loaded, with a session logged in and a key on the token.
type device struct {
	*rig.FaultModule
	ctx *pkcs11.Ctx
	s   pkcs11.SessionHandle
	key pkcs11.ObjectHandle
}

func newDevice(t *testing.T) *device {
	t.Helper()
	d := &device{FaultModule: rig.Fault(t, rig.SoftHSM(t))}
	d.ctx = load(t, d.Part)
	d.s = login(t, d.ctx, d.Part)
	d.key = aesKey(t, d.ctx, d.s, true)
	roundTrip(t, d.ctx, d.s, d.key)
	return d
}

func (d *device) random() error {
	_, err := d.ctx.GenerateRandom(d.s, 16)
	return err
}

// randoms makes n calls and shows which of them failed with CKR_DEVICE_ERROR.
func (d *device) randoms(t *testing.T, n int) string {
	t.Helper()
	var pattern strings.Builder
	for range n {
		switch err := d.random(); {
		case err == nil:
			pattern.WriteByte('.')
		case errors.Is(err, deviceError):
			pattern.WriteByte('X')
		default:
			t.Fatalf("C_GenerateRandom: %v", err)
		}
	}
	return pattern.String()
}

func TestSetChoosesCalls(t *testing.T) {
	d := newDevice(t)
	for _, c := range []struct{ options, want string }{
		{"", "XXXXXXXXXX"},
		{"times=3", "XXX......."},
		{"every=3", "..X..X..X."},
		{"skip=4 times=2", "....XX...."},
		{"skip=1 every=2 times=2", "..X.X....."},
	} {
		d.Set(t, "C_GenerateRandom", "CKR_DEVICE_ERROR", c.options)
		if got := d.randoms(t, len(c.want)); got != c.want {
			t.Errorf("%q: got %s, want %s", c.options, got, c.want)
		}
	}
	d.Set(t, "C_GenerateRandom", "0x30", "p=0.25", "seed=7")
	first := d.randoms(t, 400)
	if n := strings.Count(first, "X"); n < 60 || n > 140 {
		t.Errorf("%d of 400 calls failed with p=0.25", n)
	}
	d.Set(t, "C_GenerateRandom", "0x30", "p=0.25", "seed=7")
	if d.randoms(t, 400) != first {
		t.Error("the same seed gave other faults")
	}
	d.Clear(t, "C_GenerateRandom")
	if got := d.randoms(t, 3); got != "..." {
		t.Errorf("after clear: %s", got)
	}
}

func TestCountsAndPatterns(t *testing.T) {
	d := newDevice(t)
	d.ResetCounts(t)
	d.Set(t, "C_Generate*,C_SeedRandom", "CKR_GENERAL_ERROR")
	if err := d.random(); !errors.Is(err, pkcs11.Error(pkcs11.CKR_GENERAL_ERROR)) {
		t.Errorf("by pattern: %v", err)
	}
	if err := d.ctx.SeedRandom(d.s, []byte{1}); !errors.Is(err, pkcs11.Error(pkcs11.CKR_GENERAL_ERROR)) {
		t.Errorf("by the list's second name: %v", err)
	}
	d.Clear(t)
	roundTrip(t, d.ctx, d.s, d.key)
	for fn, want := range map[string][3]int{
		"C_GenerateRandom": {1, 1, 1}, "C_SeedRandom": {1, 1, 1}, "C_EncryptInit": {1, 0, 0}, "C_Login": {0, 0, 0},
	} {
		if got := [3]int{d.Count(t, fn), d.Failed(t, fn), d.Fired(t, fn)}; got != want {
			t.Errorf("%s: calls, failed, fired are %v, want %v", fn, got, want)
		}
	}
}

func TestAnswerLostAfterTheCall(t *testing.T) {
	d := newDevice(t)
	count := func() int {
		if err := d.ctx.FindObjectsInit(d.s, nil); err != nil {
			t.Fatal(err)
		}
		objects, _, err := d.ctx.FindObjects(d.s, 100)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.ctx.FindObjectsFinal(d.s); err != nil {
			t.Fatal(err)
		}
		return len(objects)
	}
	generate := func() error {
		_, err := d.ctx.GenerateKey(d.s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 16),
		})
		return err
	}
	before := count()
	d.Set(t, "C_GenerateKey", "CKR_DEVICE_ERROR", "times=1")
	if err := generate(); !errors.Is(err, deviceError) || count() != before {
		t.Errorf("before: %v, %d keys more", err, count()-before)
	}
	d.Set(t, "C_GenerateKey", "CKR_DEVICE_ERROR", "times=1", "at=after")
	if err := generate(); !errors.Is(err, deviceError) || count() != before+1 {
		t.Errorf("after: %v, %d keys more, want one", err, count()-before)
	}
}

func TestDelay(t *testing.T) {
	d := newDevice(t)
	four := func() time.Duration {
		start := time.Now()
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				if err := d.random(); err != nil {
					t.Errorf("C_GenerateRandom: %v", err)
				}
			})
		}
		group.Wait()
		return time.Since(start)
	}
	const delay = 50 * time.Millisecond
	d.Delay(t, "C_GenerateRandom", delay)
	if took := four(); took < delay || took >= 4*delay {
		t.Errorf("four calls at once took %v with %v each", took, delay)
	}
	d.Delay(t, "C_GenerateRandom", delay, "queue")
	if took := four(); took < 4*delay {
		t.Errorf("four calls one after another took %v with %v each", took, delay)
	}
}

func TestHang(t *testing.T) {
	d := newDevice(t)
	d.Hang(t, "C_GenerateRandom", "times=1")
	answered := make(chan error, 1)
	go func() { answered <- d.random() }()
	await(t, "a call to hang", func() bool { return d.Hanging(t) == 1 })
	if err := d.random(); err != nil {
		t.Errorf("another call: %v", err)
	}
	// What hangs does not keep the sessions of others from being dropped, nor new ones from being opened.
	other := openSession(t, d.ctx, d.Part)
	if err := d.ctx.CloseSession(other); err != nil {
		t.Errorf("C_CloseSession: %v", err)
	}
	select {
	case err := <-answered:
		t.Fatalf("the call came back before its release: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	d.Release(t)
	if err := <-answered; err != nil {
		t.Errorf("after its release: %v", err)
	}
	if n := d.Hanging(t); n != 0 {
		t.Errorf("%d calls hang after the release", n)
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// pkcs11Tool loads the device in a process of its own.
func pkcs11Tool(t *testing.T, d *rig.FaultModule, arguments ...string) (*exec.Cmd, []byte, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "pkcs11-tool", append([]string{"--module", d.Module}, arguments...)...)
	out, err := cmd.CombinedOutput()
	return cmd, out, err
}

func TestCrash(t *testing.T) {
	d := rig.Fault(t, rig.SoftHSM(t))
	for how, want := range map[string]string{
		"segv": "segmentation fault", "abort": "aborted", "exit": "exit status 3", "kill": "killed",
	} {
		d.Crash(t, "C_GetTokenInfo", how)
		cmd, out, err := pkcs11Tool(t, d, "-L")
		if err == nil || !strings.Contains(cmd.ProcessState.String(), want) {
			t.Errorf("%s: the process ended with %v: %s", how, cmd.ProcessState, out)
		}
	}
	if got := d.Count(t, "C_GetTokenInfo"); got != 4 {
		t.Errorf("%d calls are counted over four processes that died in them", got)
	}
	if list := d.Processes(t); len(list) != 0 {
		t.Errorf("dead processes are listed: %v", list)
	}
	d.Clear(t)
	if _, out, err := pkcs11Tool(t, d, "-L"); err != nil {
		t.Errorf("after clear: %v: %s", err, out)
	}
}

func TestTokenGone(t *testing.T) {
	d := newDevice(t)
	id := slot(t, d.ctx, d.Part)
	for _, c := range []struct {
		options    string
		slots      int
		info, call pkcs11.Error
	}{
		{"", 0, pkcs11.CKR_TOKEN_NOT_PRESENT, deviceRemoved},
		{"as=empty", 0, pkcs11.CKR_SLOT_ID_INVALID, deviceRemoved},
		{"rv=CKR_TOKEN_NOT_PRESENT", 0, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_PRESENT},
	} {
		d.TokenGone(t, c.options)
		if slots, err := d.ctx.GetSlotList(true); err != nil || len(slots) != c.slots {
			t.Errorf("%q: %d slots, %v", c.options, len(slots), err)
		}
		all, err := d.ctx.GetSlotList(false)
		if listed := slices.Contains(all, id); err != nil || listed == strings.Contains(c.options, "empty") {
			t.Errorf("%q: the slot itself is listed: %v, %v", c.options, listed, err)
		}
		if _, err := d.ctx.GetTokenInfo(id); !errors.Is(err, c.info) {
			t.Errorf("%q: C_GetTokenInfo: %v", c.options, err)
		}
		if _, err := d.ctx.OpenSession(id, pkcs11.CKF_SERIAL_SESSION); !errors.Is(err, c.info) {
			t.Errorf("%q: C_OpenSession: %v", c.options, err)
		}
		if err := d.random(); !errors.Is(err, c.call) {
			t.Errorf("%q: C_GenerateRandom: %v", c.options, err)
		}
		d.TokenBack(t)
		if err := d.random(); !errors.Is(err, sessionGone) {
			t.Errorf("%q: an old session when the token is back: %v", c.options, err)
		}
		d.s = login(t, d.ctx, d.Part) // fails if the login had outlived the token
		roundTrip(t, d.ctx, d.s, d.find(t))
	}
}

func (d *device) find(t *testing.T) pkcs11.ObjectHandle {
	t.Helper()
	if err := d.ctx.FindObjectsInit(d.s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY)}); err != nil {
		t.Fatalf("C_FindObjectsInit: %v", err)
	}
	objects, _, err := d.ctx.FindObjects(d.s, 2)
	if err != nil || len(objects) != 1 {
		t.Fatalf("%d keys, %v", len(objects), err)
	}
	if err := d.ctx.FindObjectsFinal(d.s); err != nil {
		t.Fatalf("C_FindObjectsFinal: %v", err)
	}
	return objects[0]
}

func TestDropSessions(t *testing.T) {
	d := newDevice(t)
	old := []pkcs11.SessionHandle{d.s, openSession(t, d.ctx, d.Part), openSession(t, d.ctx, d.Part)}
	if list := d.Processes(t); len(list) != 1 || list[0].PID != os.Getpid() || list[0].Sessions != 3 {
		t.Errorf("before: %+v", list)
	}
	d.DropSessions(t)
	for _, s := range old {
		if _, err := d.ctx.GenerateRandom(s, 1); !errors.Is(err, sessionGone) {
			t.Errorf("an old session: %v", err)
		}
	}
	d.s = openSession(t, d.ctx, d.Part)
	if slices.Contains(old, d.s) {
		t.Error("a dropped handle is used again")
	}
	if info, err := d.ctx.GetSessionInfo(d.s); err != nil || info.State != pkcs11.CKS_RW_PUBLIC_SESSION {
		t.Errorf("the login outlived the sessions: %+v, %v", info, err)
	}
	if err := d.ctx.Login(d.s, pkcs11.CKU_USER, d.PIN(t)); err != nil {
		t.Errorf("C_Login: %v", err)
	}
	roundTrip(t, d.ctx, d.s, d.find(t))
	if list := d.Processes(t); len(list) != 1 || list[0].Sessions != 1 || list[0].Peak != 3 {
		t.Errorf("after: %+v", list)
	}
}

// Under load from many goroutines, sessions are dropped and opened again; no call gets another's answer.
func TestDropSessionsUnderLoad(t *testing.T) {
	d := newDevice(t)
	id := slot(t, d.ctx, d.Part)
	end := time.Now().Add(300 * time.Millisecond)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for time.Now().Before(end) {
				s, err := d.ctx.OpenSession(id, pkcs11.CKF_SERIAL_SESSION)
				for err == nil {
					if _, err = d.ctx.GenerateRandom(s, 8); time.Now().After(end) {
						break
					}
				}
				if err != nil && !errors.Is(err, sessionGone) {
					t.Errorf("under load: %v", err)
					return
				}
			}
		})
	}
	for time.Now().Before(end) {
		d.DropSessions(t)
		time.Sleep(5 * time.Millisecond)
	}
	group.Wait()
}

func TestWedge(t *testing.T) {
	d := newDevice(t)
	d.Wedge(t)
	if err := d.random(); !errors.Is(err, deviceError) {
		t.Errorf("wedged: %v", err)
	}
	if _, err := d.ctx.GetSlotList(true); !errors.Is(err, deviceError) {
		t.Errorf("wedged, C_GetSlotList: %v", err)
	}
	if err := d.ctx.Finalize(); err != nil {
		t.Fatalf("C_Finalize: %v", err)
	}
	initialize(t, d.ctx, d.Part)
	d.s = login(t, d.ctx, d.Part)
	roundTrip(t, d.ctx, d.s, d.find(t))
}

func TestLiesAboutLengths(t *testing.T) {
	d := newDevice(t)
	text := make([]byte, 32)
	for change, want := range map[string]int{"-1": 31, "=0": 0, "=7": 7} {
		d.Length(t, "C_Encrypt", change)
		if out, err := encrypt(d.ctx, d.s, d.key, text); err != nil || len(out) != want {
			t.Errorf("%s: %d bytes, %v", change, len(out), err)
		}
	}
	d.Length(t, "C_Encrypt", "-16", "on=query")
	if _, err := encrypt(d.ctx, d.s, d.key, text); !errors.Is(err, pkcs11.Error(pkcs11.CKR_BUFFER_TOO_SMALL)) {
		t.Errorf("a query answered with too little: %v", err)
	}
	// The operation goes on after CKR_BUFFER_TOO_SMALL (5.2); a session of its own ends it.
	d.s = openSession(t, d.ctx, d.Part)
	d.Length(t, "C_Encrypt", "+16", "on=query")
	if out, err := encrypt(d.ctx, d.s, d.key, text); err != nil || len(out) != 32 {
		t.Errorf("a query answered with too much: %d bytes, %v", len(out), err)
	}
	d.Clear(t)
	d.Length(t, "C_FindObjects", "=0")
	if err := d.ctx.FindObjectsInit(d.s, nil); err != nil {
		t.Fatal(err)
	}
	if objects, _, err := d.ctx.FindObjects(d.s, 10); err != nil || len(objects) != 0 {
		t.Errorf("%d objects found, %v", len(objects), err)
	}
	d.Length(t, "C_GetAttributeValue", "-1")
	attributes, err := d.ctx.GetAttributeValue(d.s, d.key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, nil)})
	if err != nil || len(attributes) != 1 || len(attributes[0].Value) != 7 {
		t.Errorf("C_GetAttributeValue: %v, %v", attributes, err)
	}
}

func TestCorrupt(t *testing.T) {
	d := newDevice(t)
	text := make([]byte, 32)
	honest, err := encrypt(d.ctx, d.s, d.key, text)
	if err != nil {
		t.Fatal(err)
	}
	d.Corrupt(t, "C_Encrypt", "xor=0x80")
	spoilt, err := encrypt(d.ctx, d.s, d.key, text)
	if err != nil || len(spoilt) != len(honest) {
		t.Fatalf("%d bytes, %v", len(spoilt), err)
	}
	for i := range honest {
		if honest[i]^spoilt[i] != 0x80 {
			t.Fatalf("byte %d: %#x became %#x", i, honest[i], spoilt[i])
		}
	}
	d.Corrupt(t, "C_GenerateRandom", "fill=0")
	if out, err := d.ctx.GenerateRandom(d.s, 32); err != nil || !bytes.Equal(out, make([]byte, 32)) {
		t.Errorf("C_GenerateRandom: %x, %v", out, err)
	}
}

func TestPINs(t *testing.T) {
	d := rig.Fault(t, rig.SoftHSM(t))
	ctx := load(t, d.Part)
	s := openSession(t, ctx, d.Part)
	d.LockPIN(t, 2)
	try := func(pin string, want error) {
		t.Helper()
		if err := ctx.Login(s, pkcs11.CKU_USER, pin); !errors.Is(err, want) {
			t.Errorf("C_Login: %v, want %v", err, want)
		}
	}
	try("000000", pkcs11.Error(pkcs11.CKR_PIN_INCORRECT))
	if n := d.WrongPINs(t); n != 1 {
		t.Errorf("%d wrong PINs after the first", n)
	}
	info, err := ctx.GetTokenInfo(slot(t, ctx, d.Part))
	if err != nil || info.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY == 0 {
		t.Errorf("the token does not say that one try is left: %#x, %v", info.Flags, err)
	}
	try("000000", pkcs11.Error(pkcs11.CKR_PIN_INCORRECT))
	try(d.PIN(t), pkcs11.Error(pkcs11.CKR_PIN_LOCKED))
	if got := [3]int{d.Count(t, "C_Login"), d.Failed(t, "C_Login"), d.WrongPINs(t)}; got != [3]int{3, 3, 3} {
		t.Errorf("logins, failed ones, wrong PINs: %v", got)
	}
	d.Clear(t)
	if err := ctx.Login(s, pkcs11.CKU_USER, d.PIN(t)); err != nil {
		t.Errorf("after clear: %v", err)
	}
}

func TestSessionLimit(t *testing.T) {
	d := newDevice(t)
	id := slot(t, d.ctx, d.Part)
	d.LimitSessions(t, 2, -1)
	info, err := d.ctx.GetTokenInfo(id)
	if err != nil || info.MaxRwSessionCount != ^uint(0) {
		t.Errorf("the token reports %d sessions at most, %v", info.MaxRwSessionCount, err)
	}
	second := openSession(t, d.ctx, d.Part)
	if _, err := d.ctx.OpenSession(id, pkcs11.CKF_SERIAL_SESSION); !errors.Is(err, pkcs11.Error(pkcs11.CKR_SESSION_COUNT)) {
		t.Errorf("the third session: %v", err)
	}
	if err := d.ctx.CloseSession(second); err != nil {
		t.Fatal(err)
	}
	openSession(t, d.ctx, d.Part)
	d.LimitSessions(t, 2, 0)
	if info, err := d.ctx.GetTokenInfo(id); err != nil || info.MaxSessionCount != 2 {
		t.Errorf("the token reports %d sessions at most, %v", info.MaxSessionCount, err)
	}
}

func TestMechanisms(t *testing.T) {
	d := newDevice(t)
	id := slot(t, d.ctx, d.Part)
	const mlDSA = 0x1d // CKM_ML_DSA of PKCS#11 3.2
	d.AddMechanism(t, mlDSA, 1, 3, pkcs11.CKF_SIGN|pkcs11.CKF_VERIFY)
	d.HideMechanism(t, pkcs11.CKM_AES_CBC)
	list, err := d.ctx.GetMechanismList(id)
	if err != nil {
		t.Fatal(err)
	}
	has := func(mechanism uint) bool {
		return slices.ContainsFunc(list, func(m *pkcs11.Mechanism) bool { return m.Mechanism == mechanism })
	}
	if !has(mlDSA) || has(pkcs11.CKM_AES_CBC) || !has(pkcs11.CKM_AES_GCM) {
		t.Errorf("listed: added %v, hidden %v, another %v", has(mlDSA), has(pkcs11.CKM_AES_CBC), has(pkcs11.CKM_AES_GCM))
	}
	info, err := d.ctx.GetMechanismInfo(id, []*pkcs11.Mechanism{pkcs11.NewMechanism(mlDSA, nil)})
	if err != nil || info.MaxKeySize != 3 || info.Flags != pkcs11.CKF_SIGN|pkcs11.CKF_VERIFY {
		t.Errorf("the added one: %+v, %v", info, err)
	}
	if _, err := encrypt(d.ctx, d.s, d.key, make([]byte, 16)); !errors.Is(err, pkcs11.Error(pkcs11.CKR_MECHANISM_INVALID)) {
		t.Errorf("using the hidden one: %v", err)
	}
	d.Clear(t)
	roundTrip(t, d.ctx, d.s, d.key)
}

// A fault reaches a process that loads the module later, and one that is running: they are one device.
func TestOneDeviceForAllProcesses(t *testing.T) {
	d := newDevice(t)
	d.Set(t, "C_Login", "CKR_DEVICE_ERROR", "times=1")
	_, out, err := pkcs11Tool(t, d.FaultModule, "--login", "--pin", d.PIN(t), "-O")
	if err == nil || !strings.Contains(string(out), "CKR_DEVICE_ERROR") {
		t.Errorf("another process is not hit: %v: %s", err, out)
	}
	if got := d.Count(t, "C_Login"); got != 2 {
		t.Errorf("%d logins of two processes are counted", got)
	}
	// In one process, too, another instance is another device.
	other := rig.Fault(t, rig.NSS(t))
	if use(t, other.Part, cbc()); other.Count(t, "C_Login") != 1 || d.Count(t, "C_Login") != 2 {
		t.Error("two devices count together")
	}
}

func TestCommandsRefused(t *testing.T) {
	d := rig.Fault(t, rig.SoftHSM(t))
	for _, line := range []string{
		"set C_Nothing rv=1", "set C_Sign", "set C_Sign rv=CKR_WHAT", "set C_Sign rv=1 tims=2", "set C_Sign rv=1 p=2",
		"set C_Sign rv=1 times=-1", "delay C_Sign 2", "delay C_Sign -2ms", "hang", "crash C_Sign how=gently", "length C_Sign 1",
		"length C_Sign +x", "corrupt C_Sign xor=256", "token lost", "token gone rv=0", "mechanism add", "sessions", "count",
		"count C_Sign C_Login", "release now", "set C_GetFunctionList rv=5", "nonsense", "pin-lock",
		"set C_Sign rv=1 a b c d e f g h i j k l m n o p",
	} {
		if out, err := d.Command(line); err == nil {
			t.Errorf("%q is answered with %q", line, out)
		}
	}
	if out, err := d.Command("# a remark"); err != nil {
		t.Errorf("a remark is answered with %q, %v", out, err)
	}
}
