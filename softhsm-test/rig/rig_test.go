package rig_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/softhsm-test/rig"
)

// load initialises the part's module in this process until the test ends. It stays loaded: opencryptoki depends on libitm,
// which crashes a thread that used it before it was unloaded and uses it again.
func load(t testing.TB, p *rig.Part) *pkcs11.Ctx {
	t.Helper()
	p.Setenv(t)
	ctx := pkcs11.New(p.Module)
	if ctx == nil {
		t.Fatalf("%s does not load", p.Module)
	}
	initialize(t, ctx, p)
	t.Cleanup(func() {
		if err := ctx.Finalize(); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)) {
			t.Errorf("C_Finalize: %v", err)
		}
	})
	return ctx
}

func initialize(t testing.TB, ctx *pkcs11.Ctx, p *rig.Part) {
	t.Helper()
	var options []pkcs11.InitializeOption
	if p.Init != "" {
		parameters := append([]byte(p.Init), 0)
		options = append(options, pkcs11.InitializeWithReserved(unsafe.Pointer(&parameters[0])))
	}
	if err := ctx.Initialize(options...); err != nil {
		t.Fatalf("C_Initialize: %v", err)
	}
}

// slot finds the part's token by what the part says of it.
func slot(t testing.TB, ctx *pkcs11.Ctx, p *rig.Part) uint {
	t.Helper()
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		t.Fatalf("C_GetSlotList: %v", err)
	}
	for _, s := range slots {
		info, err := ctx.GetTokenInfo(s)
		if err != nil {
			t.Fatalf("C_GetTokenInfo: %v", err)
		}
		if strings.TrimSpace(info.Label) == p.Label && (p.Serial == "" || strings.TrimSpace(info.SerialNumber) == p.Serial) {
			return s
		}
	}
	t.Fatalf("no slot has the token %q with serial %q", p.Label, p.Serial)
	return 0
}

func openSession(t testing.TB, ctx *pkcs11.Ctx, p *rig.Part) pkcs11.SessionHandle {
	t.Helper()
	s, err := ctx.OpenSession(slot(t, ctx, p), pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		t.Fatalf("C_OpenSession: %v", err)
	}
	return s
}

func login(t testing.TB, ctx *pkcs11.Ctx, p *rig.Part) pkcs11.SessionHandle {
	t.Helper()
	s := openSession(t, ctx, p)
	if err := ctx.Login(s, pkcs11.CKU_USER, p.PIN(t)); err != nil {
		t.Fatalf("C_Login: %v", err)
	}
	return s
}

func aesKey(t testing.TB, ctx *pkcs11.Ctx, s pkcs11.SessionHandle, onToken bool) pkcs11.ObjectHandle {
	t.Helper()
	key, err := ctx.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, onToken),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
	})
	if err != nil {
		t.Fatalf("C_GenerateKey: %v", err)
	}
	return key
}

func cbc() *pkcs11.Mechanism { return pkcs11.NewMechanism(pkcs11.CKM_AES_CBC, make([]byte, 16)) }

func encrypt(ctx *pkcs11.Ctx, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, text []byte) ([]byte, error) {
	return encryptWith(cbc(), ctx, s, key, text)
}

func encryptWith(m *pkcs11.Mechanism, ctx *pkcs11.Ctx, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, text []byte) ([]byte, error) {
	if err := ctx.EncryptInit(s, []*pkcs11.Mechanism{m}, key); err != nil {
		return nil, err
	}
	return ctx.Encrypt(s, text)
}

func roundTrip(t testing.TB, ctx *pkcs11.Ctx, s pkcs11.SessionHandle, key pkcs11.ObjectHandle) {
	t.Helper()
	roundTripWith(t, cbc(), ctx, s, key)
}

func roundTripWith(t testing.TB, m *pkcs11.Mechanism, ctx *pkcs11.Ctx, s pkcs11.SessionHandle, key pkcs11.ObjectHandle) {
	t.Helper()
	text := make([]byte, 64)
	if _, err := rand.Read(text); err != nil {
		t.Fatal(err)
	}
	sealed, err := encryptWith(m, ctx, s, key, text)
	if err != nil {
		t.Fatalf("encrypting: %v", err)
	}
	if bytes.Equal(sealed, text) {
		t.Fatal("the text is encrypted to itself")
	}
	if err := ctx.DecryptInit(s, []*pkcs11.Mechanism{m}, key); err != nil {
		t.Fatalf("C_DecryptInit: %v", err)
	}
	got, err := ctx.Decrypt(s, sealed)
	if err != nil || !bytes.Equal(got, text) {
		t.Fatalf("decrypting gave another text, error %v", err)
	}
}

// use makes an AES key on the token, sees it in another session and uses it.
func use(t *testing.T, p *rig.Part, m *pkcs11.Mechanism) *pkcs11.Ctx {
	t.Helper()
	ctx := load(t, p)
	s := login(t, ctx, p)
	key := aesKey(t, ctx, s, true)
	roundTripWith(t, m, ctx, s, key)
	other := openSession(t, ctx, p)
	roundTripWith(t, m, ctx, other, key)
	if err := ctx.CloseSession(other); err != nil {
		t.Errorf("C_CloseSession: %v", err)
	}
	return ctx
}

// judge has pkcs11-tool, which shares no code with us, list the slots and find the token.
func judge(t *testing.T, p *rig.Part) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "pkcs11-tool", "--module", p.Module, "--list-slots")
	cmd.Env = append(os.Environ(), p.Env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("pkcs11-tool: %v: %s", err, out)
	}
	if !strings.Contains(string(out), p.Label) || !strings.Contains(string(out), p.Serial) {
		t.Errorf("pkcs11-tool does not list token %q, serial %q:\n%s", p.Label, p.Serial, out)
	}
}

func TestSoftHSM(t *testing.T) {
	p := rig.SoftHSM(t)
	judge(t, p)
	ctx := use(t, p, cbc())
	again := p.Another(t, "second one")
	if again.Serial == p.Serial || again.Module != p.Module {
		t.Errorf("the second token is %+v, the first %+v", again, p)
	}
	same := p.Another(t, p.Label)
	if same.Serial != p.Serial {
		t.Errorf("setting the same token up again made another one: %s, then %s", p.Serial, same.Serial)
	}
	if _, err := ctx.GetMechanismInfo(slot(t, ctx, p), []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, nil)}); err != nil {
		t.Errorf("AES-GCM: %v", err)
	}
}

func TestNSS(t *testing.T) {
	p := rig.NSS(t)
	if p.Init == "" {
		t.Fatal("no initialisation string")
	}
	// Only through the fault module can pkcs11-tool give the module its string.
	judge(t, rig.Fault(t, p).Part)
	use(t, p, cbc())
}

func TestOpenCryptoki(t *testing.T) {
	p := rig.OpenCryptoki(t)
	judge(t, p)
	ctx := use(t, p, cbc())
	mechanisms, err := ctx.GetMechanismList(slot(t, ctx, p))
	if err != nil {
		t.Fatalf("C_GetMechanismList: %v", err)
	}
	for _, m := range mechanisms {
		if m.Mechanism == pkcs11.CKM_AES_GCM || m.Mechanism == pkcs11.CKM_ECDSA {
			t.Errorf("mechanism %#x is there, which tests of a token without it rely on being away", m.Mechanism)
		}
	}
}

func TestOpenCryptokiIsWiped(t *testing.T) {
	p := rig.OpenCryptoki(t)
	ctx := load(t, p)
	s := login(t, ctx, p)
	if err := ctx.FindObjectsInit(s, nil); err != nil {
		t.Fatal(err)
	}
	objects, _, err := ctx.FindObjects(s, 10)
	if err != nil || len(objects) != 0 {
		t.Errorf("%d objects on a fresh token, error %v", len(objects), err)
	}
}

func TestP11Kit(t *testing.T) {
	p := rig.P11Kit(t)
	judge(t, p.Part)
	// The server passes on only mechanisms without parameters.
	ctx := use(t, p.Part, pkcs11.NewMechanism(pkcs11.CKM_AES_ECB, nil))
	s := openSession(t, ctx, p.Part)
	random := func() error { _, err := ctx.GenerateRandom(s, 16); return err }
	if err := random(); err != nil {
		t.Fatalf("before: %v", err)
	}

	p.Stop(t)
	answered := make(chan error, 1)
	go func() { answered <- random() }()
	select {
	case err := <-answered:
		t.Errorf("a frozen server answered: %v", err)
		p.Continue(t)
	case <-time.After(100 * time.Millisecond):
		p.Continue(t)
		if err := <-answered; err != nil {
			t.Errorf("after the freeze: %v", err)
		}
	}

	p.Kill(t)
	if err := random(); !errors.Is(err, pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)) {
		t.Errorf("with the server dead: %v", err)
	}
	p.Restart(t)
	if err := random(); !errors.Is(err, pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)) {
		t.Errorf("the server's restart alone healed the module: %v", err)
	}
	if err := ctx.Finalize(); err != nil {
		t.Fatalf("C_Finalize: %v", err)
	}
	initialize(t, ctx, p.Part)
	s = login(t, ctx, p.Part)
	if err := random(); err != nil {
		t.Errorf("after finalising and initialising: %v", err)
	}
}
