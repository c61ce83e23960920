package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/client"
	"github.com/keywright/keywright/root"
)

type healthCmd struct {
	Live bool `help:"Ask only whether it answers: locked, or cut off from its database, it does."`
}

// Run asks how the service is, and then whether it would work: a process that answers may still be unable to.
func (k healthCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	h, err := c.Health(ctx)
	if err != nil {
		return err
	}
	var reason error
	if h.Status == "ok" && !k.Live {
		if _, reason = c.Ready(ctx); reason != nil {
			h.Status = "unavailable"
		}
	}
	if err := a.show(h, func() error { return a.printf("%s (%s)\n", a.state(printable(h.Status)), printable(h.Version)) }); err != nil {
		return err
	}
	switch {
	case reason != nil:
		_, message := a.explain(reason)
		return &exitError{exitUnavailable, message}
	case h.Status != "ok" && !k.Live:
		return &exitError{code: exitUnavailable}
	}
	return nil
}

// printable takes what could steer a terminal out of a text from outside.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

type unlockCmd struct {
	passphrase
	RootKeyFile string `placeholder:"FILE" help:"Open it with this key file."`
	SharesFile  string `placeholder:"FILE" help:"Open it with the Shamir shares in this file, one on each line; - is standard input."`
	Share       bool   `help:"Ask for one Shamir share on the terminal. Shares may come one call at a time, from several people."`
}

func (k unlockCmd) Run(ctx context.Context, a *app) error {
	r, err := k.request(a)
	if err != nil {
		return err
	}
	defer clear(r.KeyFile)
	c, err := a.client()
	if err != nil {
		return err
	}
	u, err := c.Unlock(ctx, r)
	if err != nil {
		return err
	}
	return a.show(u, func() error {
		if u.Locked {
			return a.printf("locked: %d more shares are needed\n", u.SharesMissing)
		}
		return a.printf("unlocked\n")
	})
}

func (k unlockCmd) request(a *app) (r wire.Unlock, err error) {
	n := 0
	for _, given := range []bool{k.PassphraseFile != "", k.RootKeyFile != "", k.SharesFile != "", k.Share} {
		if given {
			n++
		}
	}
	if n > 1 {
		return r, usage("give one of --passphrase-file, --root-key-file, --shares-file and --share")
	}
	switch {
	case k.RootKeyFile != "":
		r.KeyFile, err = root.LoadKeyFile(k.RootKeyFile)
	case k.SharesFile != "":
		r.Shares, err = readShares(a, k.SharesFile)
	case k.Share:
		var s string
		s, err = a.ask("share: ")
		r.Shares = []string{strings.TrimSpace(s)}
	default:
		r.Passphrase, err = k.get(a, "passphrase", false)
	}
	return r, err
}

func readShares(a *app, path string) ([]string, error) {
	b, err := source{In: path}.read(a)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	var shares []string
	for line := range bytes.Lines(b) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			shares = append(shares, string(line))
		}
	}
	if len(shares) == 0 {
		return nil, fmt.Errorf("%s holds no shares", path)
	}
	return shares, nil
}

type rootCmd struct {
	Slots      rootSlotsCmd   `cmd:"" help:"List the ways to open the root."`
	Add        rootAddCmd     `cmd:"" help:"Add a way to open the root."`
	Remove     rootRemoveCmd  `cmd:"" help:"Remove a way to open the root; the last one stays."`
	Show       rootShowCmd    `cmd:"" help:"Show the generation of the root, and what hangs on earlier ones."`
	Rotate     rootRotateCmd  `cmd:"" help:"Replace the root, with all ways to open it, and have everything sealed anew. Slots on devices of the node are made anew by themselves; the others are given anew or dropped."`
	Retire     rootRetireCmd  `cmd:"" help:"Give up the earlier roots now; that happens by itself when nothing is under them any more."`
	NewKeyFile rootKeyFileCmd `cmd:"" help:"Make a key file, for the first start or for \"root add key-file\"."`
}

type rootSlotsCmd struct{}

func (rootSlotsCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return list(a, c.RootSlots(ctx), []string{"ID", "KIND", "LABEL", "DEVICE", "CREATED"}, func(s wire.Slot) []string {
		return []string{s.ID, s.Kind, printable(s.Label), printable(s.Device), when(s.CreatedAt)}
	})
}

type rootAddCmd struct {
	Passphrase rootAddPassphraseCmd `cmd:"" help:"A passphrase."`
	KeyFile    rootAddKeyFileCmd    `cmd:"" help:"A key file."`
	Device     rootAddDeviceCmd     `cmd:"" help:"A device, such as an HSM: the service then opens the root by itself wherever the device is."`
	Shamir     rootAddShamirCmd     `cmd:"" help:"Shares, of which a number opens the root. They are shown once."`
}

type slotLabel struct {
	Label string `placeholder:"TEXT" help:"What it is, for people."`
}

func addSlot(ctx context.Context, a *app, r wire.AddSlot) (*wire.AddedSlot, *client.Client, error) {
	c, err := a.client()
	if err != nil {
		return nil, nil, err
	}
	s, err := c.AddRootSlot(ctx, r)
	return s, c, err
}

func (a *app) showSlot(s *wire.AddedSlot) error {
	return a.show(s, func() error {
		if err := a.fields("id", s.ID, "kind", s.Kind, "label", printable(s.Label), "device", printable(s.Device), "created", when(s.CreatedAt)); err != nil {
			return err
		}
		for _, share := range s.Shares {
			if err := a.printf("%s\n", printable(share)); err != nil {
				return err
			}
		}
		return nil
	})
}

type rootAddPassphraseCmd struct {
	slotLabel
	passphrase
}

func (k rootAddPassphraseCmd) Run(ctx context.Context, a *app) error {
	p, err := k.get(a, "new passphrase", true)
	if err != nil {
		return err
	}
	s, _, err := addSlot(ctx, a, wire.AddSlot{Kind: "passphrase", Label: k.Label, Passphrase: p})
	if err != nil {
		return err
	}
	return a.showSlot(s)
}

type rootAddKeyFileCmd struct {
	File string `arg:"" placeholder:"FILE" help:"The key file, as \"root new-key-file\" makes it."`
	slotLabel
}

func (k rootAddKeyFileCmd) Run(ctx context.Context, a *app) error {
	key, err := root.LoadKeyFile(k.File)
	if err != nil {
		return err
	}
	defer key.Wipe()
	s, _, err := addSlot(ctx, a, wire.AddSlot{Kind: "key-file", Label: k.Label, KeyFile: key})
	if err != nil {
		return err
	}
	return a.showSlot(s)
}

type rootAddDeviceCmd struct {
	Name string `arg:"" placeholder:"NAME" help:"Name of the device in the service's configuration, as \"backends list\" shows it; root for the one of --root-slot."`
	slotLabel
}

func (k rootAddDeviceCmd) Run(ctx context.Context, a *app) error {
	s, _, err := addSlot(ctx, a, wire.AddSlot{Device: k.Name, Label: k.Label})
	if err != nil {
		return err
	}
	return a.showSlot(s)
}

type rootAddShamirCmd struct {
	Shares    int    `required:"" placeholder:"N" help:"How many shares to make."`
	Threshold int    `required:"" placeholder:"M" help:"How many of them open the root."`
	OutDir    string `placeholder:"DIR" help:"Write each share to a file of its own in this folder, instead of printing them."`
	slotLabel
}

func (k rootAddShamirCmd) Run(ctx context.Context, a *app) error {
	if k.OutDir != "" {
		// Before the slot is made: shares are given once.
		if err := os.MkdirAll(k.OutDir, 0o700); err != nil {
			return err
		}
	}
	s, c, err := addSlot(ctx, a, wire.AddSlot{Kind: "shamir", Label: k.Label, Shares: k.Shares, Threshold: k.Threshold})
	if err != nil {
		return err
	}
	if k.OutDir == "" {
		return a.showSlot(s)
	}
	for i, share := range s.Shares {
		path := filepath.Join(k.OutDir, fmt.Sprintf("share-%s-%d.txt", s.ID, i+1))
		err := sink{Out: path}.create(func(w io.Writer) error { _, err := fmt.Fprintln(w, share); return err })
		if err != nil {
			// A slot whose shares are lost is of no use and only looks like a way back.
			if rerr := c.RemoveRootSlot(ctx, s.ID); rerr != nil {
				a.warn("the slot %s could not be removed again", s.ID)
			}
			return fmt.Errorf("saving the shares: %w", err)
		}
	}
	s.Shares = nil
	return a.showSlot(s)
}

type rootRemoveCmd struct {
	ID string `arg:"" help:"Id of the slot."`
}

func (k rootRemoveCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	if err := c.RemoveRootSlot(ctx, k.ID); err != nil {
		return err
	}
	return a.show(wire.Empty{}, func() error { return a.printf("removed %s\n", k.ID) })
}

type rootKeyFileCmd struct {
	File string `arg:"" placeholder:"FILE" help:"File to make; it must not exist yet."`
}

func (k rootKeyFileCmd) Run(a *app) error {
	key, err := root.NewKeyFile(k.File)
	if err != nil {
		return err
	}
	key.Wipe()
	return a.show(written{Out: k.File}, func() error { return a.printf("%s: keep a copy where the service's data is not\n", k.File) })
}
