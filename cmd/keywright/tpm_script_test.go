package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keywright/keywright/tpm/device"
)

// swtpmScript starts, stops and cycles a TPM under a folder: swtpm DIR [stop|cycle]. TPM_URI says how to reach the one that was started last. It is new, without
// endorsement certificates, unless the folder has its memory already.
func swtpmScript(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: swtpm DIR [stop|cycle]")
	}
	script, err := filepath.Abs("../../softhsm-test/swtpm.sh") // tests run in their package's folder
	ts.Check(err)
	// A socket's path has at most 107 characters, and a script's folder may have more.
	link := filepath.Join(os.TempDir(), "kw-"+strconv.Itoa(os.Getpid())+"-"+ts.Name()+"-"+filepath.Base(args[0]))
	if len(args) == 1 {
		ts.Check(os.MkdirAll(filepath.Join(link, "state"), 0o700))
		ts.Defer(func() {
			if out, err := exec.Command(script, link, "stop").CombinedOutput(); err != nil { //nolint:gosec // our own script
				ts.Logf("stopping the TPM: %v: %s", err, out)
			}
			ts.Check(os.RemoveAll(link))
		})
	}
	out, err := exec.Command(script, append([]string{link}, args[1:]...)...).Output() //nolint:gosec // our own script
	if err != nil {
		ts.Fatalf("swtpm.sh: %v (run softhsm-test/install.sh)", err)
	}
	for line := range strings.Lines(string(out)) {
		name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if !ok {
			ts.Fatalf("swtpm.sh prints %q", line)
		}
		ts.Setenv(name, strings.Trim(value, "'"))
	}
}

// onTPM runs f on the TPM of TPM_URI, which nobody else may have open.
func onTPM(ts *testscript.TestScript, f func(*device.Tx) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	u, err := device.ParseURI(ts.Getenv("TPM_URI"))
	ts.Check(err)
	d, err := device.Open(ctx, device.Options{URI: u})
	ts.Check(err)
	err = d.Do(ctx, "test", f)
	ts.Check(d.Close())
	ts.Check(err)
}

// tpmExtendScript measures something into a PCR: tpmextend PCR HEX, where HEX is the digest.
func tpmExtendScript(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	digest, err := hex.DecodeString(args[1])
	ts.Check(err)
	onTPM(ts, func(tx *device.Tx) error {
		_, err := tpm2.PCRExtend{PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(n), Auth: tpm2.PasswordAuth(nil)}, //nolint:gosec // of the script
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest}}}}.Execute(tx)
		return err
	})
}

// tpmLockScript gives the lockout hierarchy a password and makes one that is wrong be counted: tpmlock PASSWORD.
func tpmLockScript(ts *testscript.TestScript, neg bool, args []string) {
	onTPM(ts, func(tx *device.Tx) error {
		guarded := tpm2.TPMTPublic{Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true}, // counted: not noDA
			Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{})}
		made, err := tpm2.CreateLoaded{ParentHandle: tx.Parent(), InPublic: tpm2.New2BTemplate(&guarded), InSensitive: tpm2.TPM2BSensitiveCreate{
			Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("right")}, Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: []byte("text")})}}}.Execute(tx)
		if err != nil {
			return err
		}
		for range 4 {
			if _, err = (tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: made.ObjectHandle, Name: made.Name, Auth: tpm2.PasswordAuth([]byte("wrong"))}}).Execute(tx); err == nil {
				ts.Fatalf("the TPM takes any password")
			}
		}
		_, err = tpm2.HierarchyChangeAuth{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)},
			NewAuth: tpm2.TPM2BAuth{Buffer: []byte(args[0])}}.Execute(tx)
		return err
	})
}

// authorityScript makes the key of somebody who approves boot states: authority PRIVATE PUBLIC.
func authorityScript(ts *testscript.TestScript, neg bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600))
}
