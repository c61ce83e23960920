package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/tpm"
	"github.com/keywright/keywright/tpm/device"
)

const schemeTPM = "tpm:"

// tpmConfig is what a TPM's URI has no words for. The zero value of every field is usable. What the URI says too (parent, owner-auth-source) goes
// before what is said here.
type tpmConfig struct {
	// OwnerAuthFile and EndorsementAuthFile hold the passwords of the two hierarchies: the first line; readable by their owner alone (a systemd credential is).
	OwnerAuthFile       string `koanf:"owner_auth_file"`
	EndorsementAuthFile string `koanf:"endorsement_auth_file"`
	// Handle is where the storage parent is kept in the TPM, as in "0x81000001". Default: it is made again whenever the TPM is opened.
	Handle string `koanf:"handle"`
	// Parent and EK pin the TPM: the Names of the storage parent and of the endorsement key, in hexadecimal, as `keywright tpm info` prints them. Default: those
	// that the first start finds, which DATA/tpm.json keeps.
	Parent string `koanf:"parent"`
	EK     string `koanf:"ek"`
	// Required makes the start fail when the TPM is not there, or is another. Default false: a backend that has been open before waits, and answers 503 meanwhile.
	Required bool `koanf:"required"`
	// AllowSealed offers the algorithms that the TPM lacks in sealed custody. Default false.
	AllowSealed bool `koanf:"allow_sealed"`
	// Queue is how many operations may wait, MaxWait how long one may. Default 256 and 5s.
	Queue   int           `koanf:"queue"`
	MaxWait time.Duration `koanf:"max_wait"`
	// CommandTimeout is after which a TPM that does not answer is taken for gone. Default 2m: it may take that to make an RSA key.
	CommandTimeout time.Duration `koanf:"command_timeout"`
	// KeepLoaded is how many keys stay loaded between operations. Default 2, which every TPM has room for; -1: none.
	KeepLoaded int `koanf:"keep_loaded"`
	// Policy protects what is sealed from now on, root slots before all, by the boot state of the machine. Default: none.
	Policy tpmPolicyConfig `koanf:"policy"`
}

// tpmPolicyConfig is a policy of approved PCRs.
type tpmPolicyConfig struct {
	// Authority is the PEM file with the public key of whoever approves boot states: ECDSA P-256 or RSA-2048. Empty: no policy.
	Authority string `koanf:"authority"`
	// Ref is what approvals are for, at most 32 bytes. A new one makes all earlier approvals worthless for what is sealed from then on.
	Ref string `koanf:"ref"`
	// Approvals is the folder of the approvals (*.json) that `keywright tpm approve` makes. It is read whenever something is opened. Default DATA/approvals.
	Approvals string `koanf:"approvals"`
}

// isTPM reports whether a URI is one of a TPM.
func isTPM(address string) bool {
	scheme, _, ok := strings.Cut(address, ":")
	return ok && strings.EqualFold(scheme+":", schemeTPM)
}

// tpmOptions checks the configuration of a TPM, and gives what opening it takes but for its passwords.
func (b *backendConfig) tpmOptions() (device.Options, error) {
	c := &b.TPM
	u, err := device.ParseURI(b.URI)
	if err != nil {
		return device.Options{}, err
	}
	o := device.Options{Name: b.Name, URI: u, Queue: c.Queue, MaxWait: c.MaxWait, CommandTimeout: c.CommandTimeout, KeepLoaded: c.KeepLoaded}
	if c.Queue < 0 || c.MaxWait < 0 || c.CommandTimeout < 0 {
		return o, errors.New("tpm: queue, max_wait and command_timeout are not negative")
	}
	if o.ParentHandle = u.Parent; o.ParentHandle == 0 && c.Handle != "" {
		if o.ParentHandle, err = persistentHandle(c.Handle); err != nil {
			return o, err
		}
	}
	if o.ParentName, err = objectName("tpm.parent", c.Parent); err != nil {
		return o, err
	}
	o.EKName, err = objectName("tpm.ek", c.EK)
	return o, err
}

// persistentHandle reads a handle of the owner's.
func persistentHandle(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 0, 32)
	if err != nil || n < 0x81000000 || n > 0x817fffff {
		return 0, errors.New("the storage parent's handle is 0x81000000 to 0x817fffff")
	}
	return uint32(n), nil
}

// objectName reads the Name of an object: an algorithm, SHA-256, and a digest.
func objectName(field, text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 34 || b[0] != 0 || b[1] != 0x0b {
		return nil, fmt.Errorf("%s is a Name in hexadecimal, 68 digits, as keywright tpm info prints it", field)
	}
	return b, nil
}

// authFile reads the password of a hierarchy: the first line of a file that is its owner's alone. No file: no password.
func authFile(path string) (secret.Bytes, error) {
	if path == "" {
		return nil, nil
	}
	if err := ownerOnly(path); err != nil {
		return nil, fmt.Errorf("a TPM password file: %w", err)
	}
	b, err := readSmall(path, 4096)
	if err != nil {
		return nil, fmt.Errorf("a TPM password file: %w", err)
	}
	defer clear(b)
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return secret.Bytes(bytes.Clone(bytes.TrimSuffix(line, []byte("\r")))), nil
}

// policy reads the authority's key.
func (c *tpmPolicyConfig) policy() (*tpm.PCRPolicy, error) {
	if c.Authority == "" {
		if c.Ref != "" || c.Approvals != "" {
			return nil, errors.New("tpm.policy needs an authority")
		}
		return nil, nil //nolint:nilnil // no policy is a choice
	}
	text, err := readSmall(c.Authority, 1<<16)
	if err != nil {
		return nil, fmt.Errorf("tpm.policy: %w", err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, fmt.Errorf("tpm.policy: %s is not one public key in PEM", c.Authority)
	}
	return &tpm.PCRPolicy{Authority: block.Bytes, Ref: []byte(c.Ref)}, nil
}

// maxApprovals bounds what is read of the folder of approvals.
const maxApprovals = 256

// approvals reads the folder at each call, so that an approval counts as soon as it is there. What is not one is passed over, and logged: whoever can write to
// the folder can keep the machine from opening, but not make it open.
func approvals(dir string, log *slog.Logger) []tpm.Approval {
	entries, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		log.Warn("the approvals cannot be read", "folder", dir, "error", err)
		return nil
	}
	slices.Sort(entries)
	slices.Reverse(entries) // what is named by its date comes newest first
	if len(entries) > maxApprovals {
		log.Warn("there are too many approvals: the last by name count", "folder", dir, "most", maxApprovals)
		entries = entries[:maxApprovals]
	}
	out := make([]tpm.Approval, 0, len(entries))
	for _, path := range entries {
		text, err := readSmall(path, 1<<16)
		if err == nil {
			var one tpm.Approval
			if one, err = tpm.ParseApproval(text); err == nil {
				out = append(out, one)
				continue
			}
		}
		log.Warn("an approval cannot be used", "file", path, "error", err)
	}
	return out
}

// openTPM opens a backend on a TPM. One that has been open before waits for its TPM, and takes no other.
func (n *node) openTPM(ctx context.Context, b *backendConfig, registry prometheus.Registerer) (backend.Backend, error) {
	o, err := b.tpmOptions()
	if err != nil {
		return nil, err
	}
	policy, err := b.TPM.Policy.policy()
	if err != nil {
		return nil, err
	}
	pins := tpmPins{path: filepath.Join(n.config.Data, tpmPinsFile), backend: b.Name}
	pinned, err := pins.read()
	if err != nil {
		return nil, err
	}
	if o.ParentName != nil && pinned != nil && !slices.Equal(o.ParentName, pinned.Parent) {
		pinned = nil // the configuration names another one, and counts
	}
	if pinned != nil {
		o.ParentName = pinned.Parent
		if o.EKName == nil {
			o.EKName = pinned.EK
		}
	}
	o.Logger, o.Registerer = n.log.With("backend", b.Name), registry
	dir := b.TPM.Policy.Approvals
	if dir == "" {
		dir = filepath.Join(n.config.Data, "approvals")
	}
	w := tpm.WaitOptions{Name: b.Name, Required: b.TPM.Required, Logger: n.log, Registerer: registry, Arrived: n.root.Wake,
		Open: func(ctx context.Context) (*tpm.Backend, error) {
			return n.openTPMOnce(ctx, b, o, pins, tpm.Options{Name: b.Name, Derive: n.root.Derive, AllowSealed: b.TPM.AllowSealed, Policy: policy,
				Approvals: func() []tpm.Approval { return approvals(dir, n.log) }, Capacity: n.config.Cache.Material, Bytes: n.config.Cache.materialBytes(), Held: &n.held, TTL: n.config.Cache.MaterialTTL,
				Logger: n.log, Registerer: registry})
		}}
	if pinned != nil {
		w.Known = pinned.Info
	}
	return tpm.Await(ctx, w)
}

// openTPMOnce opens the TPM and the backend on it, and pins the TPM. A pin that cannot be kept ends the opening: the next start would take any TPM.
func (n *node) openTPMOnce(ctx context.Context, b *backendConfig, o device.Options, pins tpmPins, t tpm.Options) (*tpm.Backend, error) {
	d, err := openDevice(ctx, o, b.TPM.OwnerAuthFile, b.TPM.EndorsementAuthFile)
	if err != nil {
		return nil, err
	}
	t.Device = d
	opened, err := tpm.Open(ctx, t)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	pin := tpmPin{Parent: d.ParentName(), EK: o.EKName}
	if pin.EK == nil {
		if pin.EK, err = d.EKName(ctx); err != nil {
			n.log.Warn("the TPM does not make its endorsement key: should it be cleared, that will look like another TPM", "backend", b.Name, "error", err)
		}
	}
	info := opened.Info()
	pin.Info = &info
	if err := pins.write(&n.remembering, pin); err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	return opened, nil
}

// openDevice opens a TPM with the passwords that the files hold now.
func openDevice(ctx context.Context, o device.Options, ownerFile, endorsementFile string) (*device.Device, error) {
	if o.URI.OwnerAuthSource != "" {
		ownerFile = o.URI.OwnerAuthSource
	}
	var err error
	if o.OwnerAuth, err = authFile(ownerFile); err != nil {
		return nil, err
	}
	defer o.OwnerAuth.Wipe()
	if o.EndorsementAuth, err = authFile(endorsementFile); err != nil {
		return nil, err
	}
	defer o.EndorsementAuth.Wipe()
	return device.Open(ctx, o)
}
