package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/client"
)

type keysCmd struct {
	Create         keysCreateCmd    `cmd:"" help:"Create a key."`
	List           keysListCmd      `cmd:"" help:"List keys, by name."`
	Inventory      keysInventoryCmd `cmd:"" help:"List keys with their readiness for quantum computers, and successors."`
	Show           keysShowCmd      `cmd:"" help:"Show a key."`
	Rename         keysRenameCmd    `cmd:"" help:"Give a key another name."`
	Label          keysLabelCmd     `cmd:"" help:"Set and remove labels."`
	Policy         keysPolicyCmd    `cmd:"" help:"Change what a key may do."`
	Limits         keysLimitsCmd    `cmd:"" help:"Set the minimum versions for encrypting and decrypting."`
	Rotate         keysRotateCmd    `cmd:"" help:"Make a new version the primary one."`
	Move           keysMoveCmd      `cmd:"" help:"Move a key, or many, to another backend."`
	Versions       keysVersionCmd   `cmd:"" help:"List a key's versions."`
	SetState       keysStateCmd     `cmd:"" help:"Change the state of a version."`
	Delete         keysDeleteCmd    `cmd:"" help:"Schedule the end of a key."`
	CancelDeletion keysCancelCmd    `cmd:"" help:"Take a scheduled deletion back."`
	Public         keysPublicCmd    `cmd:"" help:"Show the public key."`
	Import         keysImportCmd    `cmd:"" help:"Bring a key of your own; it is wrapped here before it is sent."`
	Export         keysExportCmd    `cmd:"" help:"Export a key, wrapped to an RSA key that you name."`
	Attest         keysAttestCmd    `cmd:"" help:"Get evidence of where a key lives."`
	Reseal         keysResealCmd    `cmd:"" help:"Begin a job that seals anew what is under a root or device key that was replaced."`
	SetDefault     keysDefaultCmd   `cmd:"" help:"Make a key the default one for its purpose, or no longer."`
}

// policyFlags are the policy of a new key.
type policyFlags struct {
	Allow              []string      `placeholder:"OP" help:"Operations that the key may do; all of its purpose when not given. Repeatable."`
	Exportable         bool          `help:"The key can be exported. It cannot be made so later."`
	RotationPeriod     time.Duration `placeholder:"DURATION" help:"Rotate by itself after this time, as in 720h."`
	DeletionProtection bool          `help:"Refuse deletion while this is set."`
	RequiredContext    []string      `placeholder:"NAME" help:"Names that the caller's context must hold. Repeatable."`
	UsageLimit         int64         `placeholder:"N" help:"Operations in all."`
	datedFlags
	RequireAttestation bool `help:"Refuse the key unless the device gives evidence that it made the key and keeps it. It cannot be changed later."`
}

// datedFlags are when a key is used, and how much.
type datedFlags struct {
	RotateAfterMessages int64     `placeholder:"N" help:"Rotate by itself when a version has protected so many messages."`
	RotateAfterBytes    int64     `placeholder:"N" help:"Rotate by itself when a version has protected so many bytes."`
	ActivatesAt         time.Time `placeholder:"TIME" help:"Not to be used before, as in 2026-01-31T08:00:00Z."`
	ExpiresAt           time.Time `placeholder:"TIME" help:"From then on it protects nothing new."`
}

func (d datedFlags) apply(p *wire.Policy) {
	p.RotateAfterMessages, p.RotateAfterBytes = d.RotateAfterMessages, d.RotateAfterBytes
	if !d.ActivatesAt.IsZero() {
		p.ActivatesAt = &d.ActivatesAt
	}
	if !d.ExpiresAt.IsZero() {
		p.ExpiresAt = &d.ExpiresAt
	}
}

func (p policyFlags) wire() *wire.Policy {
	w := wire.Policy{Operations: p.Allow, Exportable: p.Exportable, DeletionProtection: p.DeletionProtection, RequiredContext: p.RequiredContext, UsageLimit: p.UsageLimit, RequireAttestation: p.RequireAttestation}
	if p.RotationPeriod != 0 {
		w.RotationPeriod = p.RotationPeriod.String()
	}
	p.apply(&w)
	return &w
}

// newKeyFlags are what a new key has besides its name.
type newKeyFlags struct {
	Algorithm string            `short:"a" placeholder:"NAME" help:"Algorithm, as in AES-256-GCM; \"backends show\" lists what there is."`
	Purpose   string            `help:"Purpose, where the algorithm has several."`
	Backend   string            `help:"Backend to keep it in; the default one when not given."`
	Custody   string            `help:"Where private operations happen: device, sealed or software."`
	Label     map[string]string `short:"l" placeholder:"NAME=VALUE" help:"Label. Repeatable." mapsep:"none"`
	policyFlags
}

type keysCreateCmd struct {
	Name string `arg:"" help:"Name of the new key."`
	newKeyFlags
	PendingImport bool `help:"Make it without material, to be imported later."`
	Default       bool `help:"Make it the default key for its purpose."`
}

func (k keysCreateCmd) Run(ctx context.Context, a *app) error {
	if k.Algorithm == "" {
		return usage("--algorithm is missing")
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	r := wire.CreateKey{Name: k.Name, Algorithm: k.Algorithm, Purpose: k.Purpose, Backend: k.Backend, Custody: k.Custody, Labels: k.Label, Policy: k.wire(), Default: k.Default}
	if k.PendingImport {
		r.Origin = "imported"
	}
	return showKey(a)(c.CreateKey(ctx, r))
}

// showKey prints a key that a call gave.
func showKey(a *app) func(*wire.Key, error) error {
	return func(k *wire.Key, err error) error {
		if err != nil {
			return err
		}
		return a.show(k, func() error {
			p := k.Policy
			yes := func(b bool) string {
				if b {
					return "yes"
				}
				return ""
			}
			return a.fields("name", k.Name, "id", k.ID, "algorithm", k.Algorithm, "purpose", k.Purpose, "backend", k.Backend,
				"custody", k.Custody, "custody caveat", k.CustodyCaveat, "origin", k.Origin, "state", a.state(k.State), "primary version", number(k.PrimaryVersion),
				"latest version", number(k.LatestVersion), "minimum to encrypt", number(k.MinEncryptVersion), "minimum to decrypt", number(k.MinDecryptVersion),
				"labels", labels(k.Labels), "operations", strings.Join(p.Operations, ", "), "exportable", yes(p.Exportable),
				"rotation period", p.RotationPeriod, "deletion protection", yes(p.DeletionProtection), "required context", strings.Join(p.RequiredContext, ", "),
				"rotate after messages", number(p.RotateAfterMessages), "rotate after bytes", number(p.RotateAfterBytes),
				"usage limit", number(p.UsageLimit), "attestation required", yes(p.RequireAttestation), "grants only", yes(p.GrantsOnly), "quorum", quorum(p.Quorum), "created", when(k.CreatedAt), "rotated", whenSet(k.RotatedAt), "next rotation", whenSet(k.NextRotationAt),
				"activation", whenSet(k.ActivatesAt), "expiry", whenSet(k.ExpiresAt), "deletion", whenSet(k.DeletionAt))
		})
	}
}

// quorum says which operations take whose approval.
func quorum(q *wire.Quorum) string {
	if q == nil {
		return ""
	}
	of := strings.Join(q.Approvers, ", ")
	if len(q.Approvers) == 0 {
		of = "role " + q.Role
	}
	return fmt.Sprintf("%s by %d of %s", strings.Join(q.Operations, ", "), q.Approvals, of)
}

// custody marks one that a caveat weakens; `keys show` has the caveat.
func custody(custody, caveat string) string {
	if caveat != "" {
		return custody + "*"
	}
	return custody
}

func labels(m map[string]string) string {
	s := make([]string, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		s = append(s, name+"="+m[name])
	}
	return strings.Join(s, ", ")
}

// state colours what is not well.
func (a *app) state(s string) string {
	colour := ""
	switch s {
	case "active", "available", "ok":
		colour = "32"
	case "compromised", "destroyed", "unavailable":
		colour = "31"
	case "pending-deletion", "suspended", "deactivated", "locked":
		colour = "33"
	}
	if colour == "" || !a.colour(a.stdout) {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

type keysListCmd struct {
	Prefix    string `help:"Only names that begin so."`
	Algorithm string `short:"a" help:"Only this algorithm."`
	State     string `help:"Only this state."`
	Label     string `short:"l" placeholder:"NAME[=VALUE]" help:"Only with this label."`
	Limit     int    `help:"At most so many; 0: all."`
}

func (k keysListCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	f := client.KeyFilter{NamePrefix: k.Prefix, Algorithm: k.Algorithm, State: k.State, Label: k.Label}
	return list(a, take(c.Keys(ctx, f), k.Limit), []string{"NAME", "ALGORITHM", "CUSTODY", "VERSION", "STATE", "CREATED", "ID"}, func(k wire.Key) []string {
		return []string{k.Name, k.Algorithm, custody(k.Custody, k.CustodyCaveat), number(k.PrimaryVersion), k.State, when(k.CreatedAt), k.ID}
	})
}

// keyArg names a key.
type keyArg struct {
	Key string `arg:"" help:"Name or id of the key."`
}

type keysShowCmd struct{ keyArg }

func (k keysShowCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return showKey(a)(c.Key(ctx, k.Key))
}

func update(ctx context.Context, a *app, key string, r wire.UpdateKey) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return showKey(a)(c.UpdateKey(ctx, key, r))
}

type keysRenameCmd struct {
	keyArg
	Name string `arg:"" help:"The new name."`
}

func (k keysRenameCmd) Run(ctx context.Context, a *app) error {
	return update(ctx, a, k.Key, wire.UpdateKey{Name: &k.Name})
}

type keysLabelCmd struct {
	keyArg
	Labels []string `arg:"" placeholder:"LABEL" help:"NAME=VALUE to set, NAME- to remove."`
}

func (k keysLabelCmd) Run(ctx context.Context, a *app) error {
	m := make(map[string]*string, len(k.Labels))
	for _, l := range k.Labels {
		name, value, set := strings.Cut(l, "=")
		if !set {
			var removed bool
			if name, removed = strings.CutSuffix(l, "-"); !removed {
				return usage("a label is NAME=VALUE to set, or NAME- to remove")
			}
			m[name] = nil
			continue
		}
		m[name] = &value
	}
	return update(ctx, a, k.Key, wire.UpdateKey{Labels: m})
}

type keysPolicyCmd struct {
	keyArg
	Allow              []string       `placeholder:"OP" help:"The operations that the key may do from now on. Repeatable."`
	AllowAll           bool           `help:"All operations of the key's purpose."`
	NotExportable      bool           `help:"Take the right to export away, for good."`
	RotationPeriod     *time.Duration `placeholder:"DURATION" help:"Rotate by itself after this time; 0: by hand only."`
	DeletionProtection *bool          `negatable:"" help:"Refuse deletion, or allow it again."`
	RequiredContext    []string       `placeholder:"NAME" help:"Names that the caller's context must hold. Repeatable."`
	NoRequiredContext  bool           `help:"No context is required."`
	UsageLimit         *int64         `placeholder:"N" help:"Operations in all; 0: no limit."`
	accessFlags

	RotateAfterMessages *int64     `placeholder:"N" help:"Rotate by itself when a version has protected so many messages; 0: no such number."`
	RotateAfterBytes    *int64     `placeholder:"N" help:"Rotate by itself when a version has protected so many bytes; 0: no such number."`
	ActivatesAt         *time.Time `placeholder:"TIME" help:"Not to be used before; of a key that has not been active yet."`
	NoActivatesAt       bool       `help:"A key that has not been active yet waits until it is made so by hand."`
	ExpiresAt           *time.Time `placeholder:"TIME" help:"From then on it protects nothing new."`
	NoExpiresAt         bool       `help:"It does not expire."`
}

// Run reads the policy, changes what the flags say and writes it back: the service replaces a policy as a whole.
func (k keysPolicyCmd) Run(ctx context.Context, a *app) error {
	if k.AllowAll && k.Allow != nil || k.NoRequiredContext && k.RequiredContext != nil || k.NoActivatesAt && k.ActivatesAt != nil || k.NoExpiresAt && k.ExpiresAt != nil {
		return usage("two flags contradict each other")
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	key, err := c.Key(ctx, k.Key)
	if err != nil {
		return err
	}
	p, changed := k.apply(key.Policy)
	if !changed {
		return usage("nothing to change is given")
	}
	return showKey(a)(c.UpdateKey(ctx, key.ID, wire.UpdateKey{Policy: &p}))
}

func (k keysPolicyCmd) apply(p wire.Policy) (_ wire.Policy, changed bool) {
	if k.Allow != nil || k.AllowAll {
		p.Operations, changed = k.Allow, true
	}
	if k.accessFlags.apply(&p) {
		changed = true
	}
	if k.NotExportable {
		p.Exportable, changed = false, true
	}
	if k.RotationPeriod != nil {
		p.RotationPeriod, changed = "", true
		if *k.RotationPeriod != 0 {
			p.RotationPeriod = k.RotationPeriod.String()
		}
	}
	if k.DeletionProtection != nil {
		p.DeletionProtection, changed = *k.DeletionProtection, true
	}
	if k.RequiredContext != nil || k.NoRequiredContext {
		p.RequiredContext, changed = k.RequiredContext, true
	}
	if k.UsageLimit != nil {
		p.UsageLimit, changed = *k.UsageLimit, true
	}
	if k.RotateAfterMessages != nil {
		p.RotateAfterMessages, changed = *k.RotateAfterMessages, true
	}
	if k.RotateAfterBytes != nil {
		p.RotateAfterBytes, changed = *k.RotateAfterBytes, true
	}
	if k.ActivatesAt != nil || k.NoActivatesAt {
		p.ActivatesAt, changed = k.ActivatesAt, true
	}
	if k.ExpiresAt != nil || k.NoExpiresAt {
		p.ExpiresAt, changed = k.ExpiresAt, true
	}
	return p, changed
}

type keysLimitsCmd struct {
	keyArg
	MinEncrypt *uint32 `placeholder:"VERSION" help:"Encrypt, sign and wrap only with this version and later ones; 0: all."`
	MinDecrypt *uint32 `placeholder:"VERSION" help:"Decrypt, verify and unwrap only with this version and later ones; 0: all."`
}

func (k keysLimitsCmd) Run(ctx context.Context, a *app) error {
	if k.MinEncrypt == nil && k.MinDecrypt == nil {
		return usage("give --min-encrypt or --min-decrypt")
	}
	return update(ctx, a, k.Key, wire.UpdateKey{MinEncryptVersion: k.MinEncrypt, MinDecryptVersion: k.MinDecrypt})
}

type keysRotateCmd struct{ keyArg }

func (k keysRotateCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return showKey(a)(c.RotateKey(ctx, k.Key))
}

type keysVersionCmd struct{ keyArg }

func (k keysVersionCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return list(a, c.KeyVersions(ctx, k.Key), []string{"VERSION", "STATE", "ORIGIN", "BACKEND", "CUSTODY", "MESSAGES", "CREATED", "STATE SINCE"}, func(v wire.KeyVersion) []string {
		return []string{number(v.Version), v.State, v.Origin, v.Backend, custody(v.Custody, v.CustodyCaveat), messages(v), when(v.CreatedAt), when(v.StateChangedAt)}
	})
}

// messages says how much of what its algorithm bears a version has protected.
func messages(v wire.KeyVersion) string {
	switch {
	case v.MessageLimit == 0:
		return number(v.Messages)
	case v.Messages == 0:
		return "0%"
	}
	return fmt.Sprintf("%d (%.2g%%)", v.Messages, 100*float64(v.Messages)/float64(v.MessageLimit))
}

type keysStateCmd struct {
	keyArg
	Version uint32 `arg:"" help:"Number of the version."`
	State   string `arg:"" help:"pre-active, active, deactivated, suspended, compromised or destroyed." enum:"pre-active,active,deactivated,suspended,compromised,pending-deletion,destroyed"`
}

func (k keysStateCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	v, err := c.SetVersionState(ctx, k.Key, k.Version, k.State)
	if err != nil {
		return err
	}
	return a.show(v, func() error {
		return a.fields("version", number(v.Version), "state", a.state(v.State), "since", when(v.StateChangedAt))
	})
}

type keysDeleteCmd struct {
	keyArg
	Days int `help:"Days until the end, 7 to 30." default:"30"`
}

func (k keysDeleteCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return showKey(a)(c.DeleteKey(ctx, k.Key, k.Days))
}

type keysCancelCmd struct{ keyArg }

func (k keysCancelCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return showKey(a)(c.CancelDeletion(ctx, k.Key))
}

type keysDefaultCmd struct {
	keyArg
	Off bool `help:"No longer the default key."`
}

func (k keysDefaultCmd) Run(ctx context.Context, a *app) error {
	on := !k.Off
	return update(ctx, a, k.Key, wire.UpdateKey{Default: &on})
}

type keysPublicCmd struct {
	keyArg
	Format     string   `help:"pem, jwk or raw." enum:"pem,jwk,raw" default:"pem"`
	KeyVersion uint32   `placeholder:"N" help:"Version; the primary one when not given."`
	Include    []string `placeholder:"FIELD" help:"More fields, with --output json. Repeatable."`
}

func (k keysPublicCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	if k.Format == "jwk" {
		v, err := c.PublicJWK(ctx, k.Key, k.KeyVersion)
		if err != nil {
			return err
		}
		return a.printJSON(v)
	}
	p, err := c.PublicKey(ctx, k.Key, k.KeyVersion, k.Format, k.Include...)
	if err != nil {
		return err
	}
	return a.show(p, func() error { return a.printf("%s\n", strings.TrimRight(p.PublicKey, "\n")) })
}
