package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/client"
	"github.com/keywright/keywright/root"
)

type rootShowCmd struct{}

func (rootShowCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	r, err := c.Root(ctx)
	if err != nil {
		return err
	}
	earlier := make([]string, len(r.Earlier))
	for i, g := range r.Earlier {
		earlier[i] = fmt.Sprint(g)
	}
	return a.show(r, func() error {
		return a.fields("generation", fmt.Sprint(r.Generation), "earlier", strings.Join(earlier, ", "), "key versions under them", number(r.Stale))
	})
}

type rootRotateCmd struct {
	PassphraseFile string   `placeholder:"FILE" help:"File whose first line is the new passphrase; it takes the place of the oldest passphrase slot."`
	Passphrase     bool     `help:"Ask for the new passphrase on the terminal, or take it from $$KEYWRIGHT_PASSPHRASE."`
	RootKeyFile    string   `placeholder:"FILE" help:"New key file, as \"root new-key-file\" makes it; it takes the place of the oldest key-file slot."`
	Shares         int      `placeholder:"N" help:"How many new Shamir shares to make; they take the place of the oldest such slot."`
	Threshold      int      `placeholder:"M" help:"How many of them open the root."`
	OutDir         string   `placeholder:"DIR" help:"Write each share to a file of its own in this folder, instead of printing them."`
	Drop           []string `placeholder:"ID" help:"Give up this slot. Repeatable."`
	NoFollow       bool     `help:"Nodes that run must not follow by the old root: they open by a device, or are unlocked anew. For a root that others know."`
	Wait           bool     `help:"Wait until everything is sealed anew, with a bar on a terminal."`
}

func (k rootRotateCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	r, err := k.request(ctx, a, c)
	if err != nil {
		return err
	}
	if k.OutDir != "" {
		// Before the root is replaced: shares are given once.
		if err := os.MkdirAll(k.OutDir, 0o700); err != nil {
			return err
		}
	}
	done, err := c.RotateRoot(ctx, r)
	if err != nil {
		return err
	}
	if err := k.save(a, done); err != nil {
		return err
	}
	if err := a.show(done, func() error { return showRotated(a, done) }); err != nil || !k.Wait || done.Job == nil {
		return err
	}
	return watchJob(ctx, a, c, done.Job.ID)
}

// request says what comes in the place of what.
func (k rootRotateCmd) request(ctx context.Context, a *app, c *client.Client) (wire.RotateRoot, error) {
	r := wire.RotateRoot{Drop: k.Drop, NoFollow: k.NoFollow}
	if k.PassphraseFile != "" && k.Passphrase {
		return r, usage("give --passphrase or --passphrase-file, not both")
	}
	if (k.Shares != 0) != (k.Threshold != 0) || k.OutDir != "" && k.Shares == 0 {
		return r, usage("--shares and --threshold belong together, and --out-dir to them")
	}
	var slots []wire.Slot
	for s, err := range c.RootSlots(ctx) {
		if err != nil {
			return r, err
		}
		slots = append(slots, s)
	}
	add := func(s wire.AddSlot) {
		one := wire.ReplaceSlot{AddSlot: s}
		i := slices.IndexFunc(slots, func(old wire.Slot) bool { return old.Kind == s.Kind && !slices.Contains(k.Drop, old.ID) })
		if i >= 0 {
			one.Replaces = slots[i].ID
		}
		r.Slots = append(r.Slots, one)
	}
	if k.Passphrase || k.PassphraseFile != "" {
		p, err := passphrase{PassphraseFile: k.PassphraseFile}.get(a, "new passphrase", true)
		if err != nil {
			return r, err
		}
		add(wire.AddSlot{Kind: "passphrase", Passphrase: p})
	}
	if k.RootKeyFile != "" {
		key, err := root.LoadKeyFile(k.RootKeyFile)
		if err != nil {
			return r, err
		}
		add(wire.AddSlot{Kind: "key-file", KeyFile: key})
	}
	if k.Shares != 0 {
		add(wire.AddSlot{Kind: "shamir", Shares: k.Shares, Threshold: k.Threshold})
	}
	return r, nil
}

// save writes the shares to files. Where that fails they are shown after all: they are the only copy.
func (k rootRotateCmd) save(a *app, done *wire.RotatedRoot) error {
	if k.OutDir == "" {
		return nil
	}
	for i := range done.Slots {
		s := &done.Slots[i]
		for n, share := range s.Shares {
			path := filepath.Join(k.OutDir, fmt.Sprintf("share-%s-%d.txt", s.ID, n+1))
			if err := (sink{Out: path}).create(func(w io.Writer) error { _, err := fmt.Fprintln(w, share); return err }); err != nil {
				a.warn("the shares could not be saved (%v): they are shown below, and never again", err)
				return nil
			}
		}
		s.Shares = nil
	}
	return nil
}

func showRotated(a *app, done *wire.RotatedRoot) error {
	job := ""
	if done.Job != nil {
		job = done.Job.ID
	}
	if err := a.fields("generation", fmt.Sprint(done.Generation), "job", job); err != nil {
		return err
	}
	for _, s := range done.Slots {
		if err := a.printf("slot %s: %s %s\n", s.ID, s.Kind, printable(s.Label)); err != nil {
			return err
		}
		for _, share := range s.Shares {
			if err := a.printf("%s\n", printable(share)); err != nil {
				return err
			}
		}
	}
	for _, s := range done.Dropped {
		if err := a.printf("dropped %s: %s %s\n", s.ID, s.Kind, printable(s.Label)); err != nil {
			return err
		}
	}
	return nil
}

type rootRetireCmd struct {
	Lose int64 `placeholder:"N" help:"How many key versions are to be lost: those that could not be sealed anew. Not given: none, and the root stays while there are some."`
}

func (k rootRetireCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	if err := c.RetireRoot(ctx, k.Lose); err != nil {
		return err
	}
	return a.show(wire.Empty{}, func() error { return a.printf("the earlier roots are gone\n") })
}

type keysResealCmd struct {
	Backend string `arg:"" optional:"" help:"Name of one backend; all when not given."`
	Wait    bool   `help:"Wait until it is done, with a bar on a terminal."`
}

func (k keysResealCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	j, err := c.Reseal(ctx, k.Backend)
	if err != nil {
		return err
	}
	if k.Wait {
		return watchJob(ctx, a, c, j.ID)
	}
	return showJob(a, j)
}

type backendsKEKsCmd struct {
	Name string `arg:"" help:"Name of the backend."`
}

func (k backendsKEKsCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return list(a, c.KEKs(ctx, k.Name), []string{"NAME", "GENERATION", "NEWEST", "VERSIONS"}, func(k wire.KEK) []string {
		newest := ""
		if k.Newest {
			newest = "newest"
		}
		return []string{k.Name, fmt.Sprint(k.Generation), newest, number(k.Versions)}
	})
}

type backendsRotateKEKCmd struct {
	Name string `arg:"" help:"Name of the backend."`
	Wait bool   `help:"Wait until everything is sealed anew, with a bar on a terminal."`
}

func (k backendsRotateKEKCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	done, err := c.RotateKEK(ctx, k.Name)
	if err != nil {
		return err
	}
	job := ""
	if done.Job != nil {
		job = done.Job.ID
	}
	if err := a.show(done, func() error { return a.fields("generation", fmt.Sprint(done.Generation), "job", job) }); err != nil || !k.Wait || job == "" {
		return err
	}
	return watchJob(ctx, a, c, job)
}

type backendsRetireKEKCmd struct {
	Name       string `arg:"" help:"Name of the backend."`
	Generation uint32 `arg:"" help:"Which generation, as \"backends keks\" shows it. Its keys are destroyed on the device."`
}

func (k backendsRetireKEKCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	if err := c.RetireKEK(ctx, k.Name, k.Generation); err != nil {
		return err
	}
	return a.show(wire.Empty{}, func() error { return a.printf("generation %d is gone\n", k.Generation) })
}
