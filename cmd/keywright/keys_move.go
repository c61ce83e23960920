package main

import (
	"context"

	"github.com/keywright/keywright/api/wire"
)

type keysMoveCmd struct {
	Key         string `arg:"" optional:"" help:"Name or id of the key; or give a filter."`
	To          string `required:"" placeholder:"BACKEND" help:"Backend to move it to."`
	NewVersion  bool   `help:"Make the key's next version there; those before stay where they are. Otherwise the material is carried over."`
	Custody     string `help:"Custody there: device, sealed or software; what the backend gives when not given."`
	AllowWeaker bool   `help:"Allow a custody that is weaker than the key has."`
	Prefix      string `help:"Move all keys whose names begin so."`
	Algorithm   string `short:"a" help:"Move all keys of this algorithm."`
	State       string `help:"Move all keys in this state."`
	Label       string `short:"l" placeholder:"NAME[=VALUE]" help:"Move all keys with this label."`
	Wait        bool   `help:"Follow the job until it has ended; exit code 1 when something was not moved."`
}

func (k keysMoveCmd) Run(ctx context.Context, a *app) error {
	filtered := k.Prefix != "" || k.Algorithm != "" || k.State != "" || k.Label != ""
	if filtered == (k.Key != "") {
		return usage("give a key, or a filter of keys")
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	r := wire.MoveKey{Backend: k.To, Custody: k.Custody, AllowWeaker: k.AllowWeaker}
	if k.NewVersion {
		r.Mode = "new-version"
	}
	var j *wire.Job
	if k.Key != "" {
		j, err = c.MoveKey(ctx, k.Key, r)
	} else {
		j, err = c.MoveKeys(ctx, wire.MoveKeys{MoveKey: r, NamePrefix: k.Prefix, Algorithm: k.Algorithm, State: k.State, Label: k.Label})
	}
	if err != nil {
		return err
	}
	if k.Wait {
		return watchJob(ctx, a, c, j.ID)
	}
	return showJob(a, j)
}
