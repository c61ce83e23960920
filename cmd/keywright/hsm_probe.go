package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/hsm/remote"
	"github.com/keywright/keywright/hsm/token"
)

type hsmProbeCmd struct {
	hsmToken
	Mechanisms bool `help:"Show the token's list of mechanisms too."`
	sink
}

// probeReport is what was found out about a token. docs/hsm keeps those of modules that we know.
type probeReport struct {
	Keywright    string                 `json:"keywright"` // version of the program that looked
	Token        probedToken            `json:"token"`
	MaxSessions  int                    `json:"max_sessions"`         // 0: not limited, or not told
	Leaks        bool                   `json:"leaks_nonextractable"` // a key marked as non-extractable could be wrapped out
	Wrapping     bool                   `json:"wrapped_placement"`
	Capabilities []probedCapability     `json:"capabilities"`
	Lacks        []backend.Algorithm    `json:"not_offered"`
	Quirks       []string               `json:"quirks"`
	Mechanisms   []token.MechanismEntry `json:"mechanisms"`
}

type probedToken struct {
	Label        string `json:"label"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Firmware     string `json:"firmware"`
	Library      string `json:"library"`
}

type probedCapability struct {
	Algorithm  backend.Algorithm   `json:"algorithm"`
	Operations []backend.Operation `json:"operations"`
	Import     bool                `json:"import"`
	Wrapped    bool                `json:"wrapped_placement"`
}

func (k hsmProbeCmd) Run(ctx context.Context, a *app) (err error) {
	t, _, err := k.open(ctx, a, func(c *token.Config, o *remote.Options) {
		c.AcceptLeaks = true // to be reported, not refused
		o.Processes = 1
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	r := newProbeReport(t.Describe())
	if k.Out != "" {
		return k.create(func(w io.Writer) error { return writeJSON(w, r) })
	}
	return a.show(r, func() error { return k.print(a, r) })
}

func newProbeReport(d token.Description) probeReport {
	r := probeReport{Keywright: programVersion(), MaxSessions: d.MaxSessions, Leaks: d.LeaksWrapped, Wrapping: d.Wrapping,
		Token:        probedToken{d.Label, d.Serial, d.Manufacturer, d.Model, d.Firmware, d.Library},
		Capabilities: []probedCapability{}, Lacks: []backend.Algorithm{}, Quirks: append([]string{}, d.Quirks...), Mechanisms: []token.MechanismEntry{}}
	for _, info := range backend.Algorithms() {
		i := slices.IndexFunc(d.Capabilities, func(c backend.Capability) bool { return c.Algorithm == info.Name })
		if i < 0 {
			r.Lacks = append(r.Lacks, info.Name)
			continue
		}
		c := d.Capabilities[i]
		r.Capabilities = append(r.Capabilities, probedCapability{c.Algorithm, c.Operations, c.Import, slices.Contains(d.Wrappable, c.Algorithm)})
	}
	for _, m := range d.Mechanisms {
		r.Mechanisms = append(r.Mechanisms, m.Entry())
	}
	return r
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (k hsmProbeCmd) print(a *app, r probeReport) error {
	leaks := "no"
	if r.Leaks {
		leaks = "YES: the service refuses this token unless it is told to accept that"
	}
	err := a.fields("token", printable(r.Token.Label), "serial", printable(r.Token.Serial), "manufacturer", printable(r.Token.Manufacturer),
		"model", printable(r.Token.Model), "firmware", printable(r.Token.Firmware), "library", printable(r.Token.Library),
		"sessions", number(r.MaxSessions), "leaks non-extractable keys", leaks, "wrapped placement", yesNo(r.Wrapping))
	if err != nil {
		return err
	}
	for _, q := range r.Quirks {
		if err := a.fields("quirk", printable(q)); err != nil {
			return err
		}
	}
	if err := a.printf("\n"); err != nil {
		return err
	}
	rows := func(yield func(probedCapability, error) bool) {
		for _, c := range r.Capabilities {
			if !yield(c, nil) {
				return
			}
		}
	}
	err = list(a, rows, []string{"ALGORITHM", "OPERATIONS", "IMPORT", "WRAPPED"}, func(c probedCapability) []string {
		return []string{string(c.Algorithm), join(c.Operations), yesNo(c.Import), yesNo(c.Wrapped)}
	})
	if err == nil && len(r.Lacks) > 0 {
		err = a.printf("not offered: %s\n", join(r.Lacks))
	}
	if err == nil && k.Mechanisms {
		if err = a.printf("\n"); err == nil {
			err = printMechanisms(a, r.Mechanisms)
		}
	}
	return err
}

func join[S ~string](list []S) string {
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = string(s)
	}
	return strings.Join(words, ",")
}
