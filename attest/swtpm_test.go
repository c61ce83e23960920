package attest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keywright/keywright/attest"
)

// wire is a TPM on a connection of its own.
type wire struct{ conn net.Conn }

func (w *wire) Send(command []byte) ([]byte, error) {
	if _, err := w.conn.Write(command); err != nil {
		return nil, err
	}
	var head [10]byte
	if _, err := io.ReadFull(w.conn, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[2:])
	if size < 10 || size > 1<<16 {
		return nil, errors.New("the TPM gave a response of an impossible size")
	}
	response := make([]byte, size)
	copy(response, head[:])
	_, err := io.ReadFull(w.conn, response[len(head):])
	return response, err
}

// machine is a TPM as its maker leaves it: an endorsement key with its certificate.
type machine struct {
	tpm   transport.TPM
	roots []byte // PEM
	chain [][]byte
	ctrl  string      // swtpm's control channel
	made  *attest.TPM // by makers, which takes an RSA key's time
}

// makeTPM makes a fresh swtpm with a certificate by a maker's authority of its own.
func makeTPM(t testing.TB) *machine {
	t.Helper()
	dir := t.TempDir()
	state, ca := filepath.Join(dir, "state"), filepath.Join(dir, "ca")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(ca, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	conf := write("localca.conf", fmt.Sprintf("statedir = %s\nsigningkey = %s/key.pem\nissuercert = %s/issuer.pem\ncertserial = %s/serial\n", ca, ca, ca, ca))
	options := write("localca.options", "--platform-manufacturer Keywright\n--platform-version 1\n--platform-model test\n")
	setup := write("setup.conf", fmt.Sprintf("create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\nactive_pcr_banks = sha256\n", conf, options))
	run(t, "swtpm_setup", "--tpm2", "--tpmstate", state, "--create-ek-cert", "--config", setup, "--overwrite")

	m := startTPM(t, dir, state)
	issuer, _ := pem.Decode(must[[]byte](t)(os.ReadFile(filepath.Join(ca, "issuer.pem"))))
	m.chain = [][]byte{issuer.Bytes}
	m.roots = must[[]byte](t)(os.ReadFile(filepath.Join(ca, "swtpm-localca-rootca-cert.pem")))
	return m
}

// startTPM starts the swtpm of a state; an empty folder is one without a certificate.
func startTPM(t testing.TB, dir, state string) *machine {
	t.Helper()
	socket := filepath.Join(dir, "s")
	ctx, cancel := context.WithCancel(context.Background())
	daemon := exec.CommandContext(ctx, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state, "--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+socket+"c", "--flags", "not-need-init,startup-clear")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	var conn net.Conn
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var err error
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		var exit *exec.ExitError
		if err := daemon.Wait(); err != nil && !errors.As(err, &exit) { // it is killed, or ends with its connection
			t.Error(err)
		}
	})
	return &machine{tpm: &wire{conn}, ctrl: socket + "c"}
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// loaded is an object in the TPM.
type loaded struct {
	tpm2.AuthHandle
	public []byte
}

func (m *machine) flush(t testing.TB, h tpm2.TPMHandle) {
	t.Helper()
	if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(m.tpm); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) primary(t testing.TB, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) *loaded {
	t.Helper()
	r := must[*tpm2.CreatePrimaryResponse](t)(tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(template)}.Execute(m.tpm))
	return &loaded{tpm2.AuthHandle{Handle: r.ObjectHandle, Name: r.Name, Auth: tpm2.PasswordAuth(nil)}, r.OutPublic.Bytes()}
}

// readNV reads an index that anybody may read, as those of EK certificates are.
func (m *machine) readNV(t testing.TB, index tpm2.TPMHandle) []byte {
	t.Helper()
	p := must[*tpm2.NVReadPublicResponse](t)(tpm2.NVReadPublic{NVIndex: index}.Execute(m.tpm))
	pub := must[*tpm2.TPMSNVPublic](t)(p.NVPublic.Contents())
	var out []byte
	for int(pub.DataSize) > len(out) {
		n := min(int(pub.DataSize)-len(out), 512)
		h := tpm2.AuthHandle{Handle: index, Name: p.NVName, Auth: tpm2.PasswordAuth(nil)}
		r := must[*tpm2.NVReadResponse](t)(tpm2.NVRead{AuthHandle: h, NVIndex: tpm2.NamedHandle{Handle: index, Name: p.NVName}, Size: uint16(n), Offset: uint16(len(out))}.Execute(m.tpm))
		out = append(out, r.Data.Buffer...)
	}
	return out
}

// makers are the parts that do not depend on a key: the endorsement key and its certificates.
func (m *machine) makers(t testing.TB) *attest.TPM {
	t.Helper()
	if m.made != nil {
		e := *m.made
		return &e
	}
	if m.roots == nil {
		return &attest.TPM{}
	}
	// The template is that of the RSA-2048 endorsement key of the TCG, whose certificate is in NV 0x01C00002.
	ek := m.primary(t, tpm2.TPMRHEndorsement, tpm2.RSAEKTemplate)
	m.flush(t, ek.Handle)
	m.made = &attest.TPM{EK: ek.public, EKCertificates: append([][]byte{m.readNV(t, 0x01C00002)}, m.chain...), Manufacturer: "IBM", Model: "SW TPM"}
	return m.makers(t)
}

// part is an object to be made and its role.
type part struct {
	role     string
	template tpm2.TPMTPublic
}

// how a test has evidence made otherwise than it should be.
type how struct {
	ak        tpm2.TPMTPublic
	hierarchy tpm2.TPMHandle
	restart   func() // between the certification and the quote
}

func properly() how { return how{ak: attest.AKTemplate(), hierarchy: tpm2.TPMRHEndorsement} }

// key is one in the TPM's care: its objects stay on disk, as there are three transient slots.
type key struct {
	parts   []part
	created []*tpm2.CreateResponse
}

// key makes one for the key version that a statement is of.
func (m *machine) key(t testing.TB, st attest.Statement, parts ...part) *key {
	t.Helper()
	policy := must[[]byte](t)(attest.ObjectPolicy(&st))
	k := &key{parts: parts}
	parent := m.primary(t, tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
	defer m.flush(t, parent.Handle)
	for _, p := range parts {
		p.template.AuthPolicy = tpm2.TPM2BDigest{Buffer: policy}
		c := tpm2.Create{ParentHandle: parent.AuthHandle, InPublic: tpm2.New2B(p.template)}
		if !p.template.ObjectAttributes.SensitiveDataOrigin { // the caller brings the secret
			c.InSensitive = tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
				Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: bytes.Repeat([]byte{5}, 32)})}}
		}
		k.created = append(k.created, must[*tpm2.CreateResponse](t)(c.Execute(m.tpm)))
	}
	return k
}

// evidence collects what the format wants of a key.
func (m *machine) evidence(t testing.TB, k *key, h how, binding []byte) *attest.TPM {
	t.Helper()
	e := m.makers(t)
	for i, p := range k.parts {
		parent := m.primary(t, tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
		l := must[*tpm2.LoadResponse](t)(tpm2.Load{ParentHandle: parent.AuthHandle, InPrivate: k.created[i].OutPrivate, InPublic: k.created[i].OutPublic}.Execute(m.tpm))
		m.flush(t, parent.Handle)
		o := &loaded{tpm2.AuthHandle{Handle: l.ObjectHandle, Name: l.Name, Auth: tpm2.PasswordAuth(nil)}, k.created[i].OutPublic.Bytes()}
		ak := m.primary(t, h.hierarchy, h.ak)
		e.Objects = append(e.Objects, m.certify(t, o, ak, p.role, binding))
		m.flush(t, o.Handle)
		m.flush(t, ak.Handle)
	}
	if h.restart != nil {
		h.restart()
	}
	ak := m.primary(t, h.hierarchy, h.ak)
	defer m.flush(t, ak.Handle)
	e.AK = ak.public
	e.Quote = m.quote(t, ak, binding, 0, 1, 2, 7, 16, 23)
	return e
}

func (m *machine) certify(t testing.TB, key, ak *loaded, role string, binding []byte) attest.Object {
	t.Helper()
	r := must[*tpm2.CertifyResponse](t)(tpm2.Certify{ObjectHandle: key.AuthHandle, SignHandle: ak.AuthHandle,
		QualifyingData: tpm2.TPM2BData{Buffer: binding}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}}.Execute(m.tpm))
	return attest.Object{Role: role, Public: key.public, Attest: r.CertifyInfo.Bytes(), Signature: tpm2.Marshal(r.Signature)}
}

func (m *machine) quote(t testing.TB, ak *loaded, binding []byte, pcrs ...uint) attest.Quote {
	t.Helper()
	selection := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)}}}
	r := must[*tpm2.QuoteResponse](t)(tpm2.Quote{SignHandle: ak.AuthHandle, QualifyingData: tpm2.TPM2BData{Buffer: binding},
		InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, PCRSelect: selection}.Execute(m.tpm))
	q := attest.Quote{Attest: r.Quoted.Bytes(), Signature: tpm2.Marshal(r.Signature)}
	v := must[*tpm2.PCRReadResponse](t)(tpm2.PCRRead{PCRSelectionIn: selection}.Execute(m.tpm))
	if len(v.PCRValues.Digests) != len(pcrs) {
		t.Fatalf("the TPM gave %d PCRs", len(v.PCRValues.Digests))
	}
	for i, d := range v.PCRValues.Digests {
		q.PCRs = append(q.PCRs, attest.PCR{Bank: "sha256", Index: int(pcrs[i]), Value: bytes.Clone(d.Buffer)})
	}
	return q
}

// startup is what the firmware does after a power cycle.
func (m *machine) startup(t testing.TB) {
	t.Helper()
	if _, err := (tpm2.Startup{StartupType: tpm2.TPMSUClear}).Execute(m.tpm); err != nil {
		t.Fatal(err)
	}
}
