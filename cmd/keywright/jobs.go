package main

import (
	"context"
	"fmt"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/client"
)

type jobsCmd struct {
	List   jobsListCmd   `cmd:"" default:"withargs" help:"List jobs, newest first."`
	Show   jobsShowCmd   `cmd:"" help:"Show a job."`
	Cancel jobsCancelCmd `cmd:"" help:"End a job that has not ended; what it did stays done."`
}

type jobsListCmd struct {
	Kind  string `help:"Only this kind, as in move."`
	State string `help:"Only this state: queued, running, done, failed or cancelled."`
	Limit int    `help:"At most so many; 0: all."`
}

func (k jobsListCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	return list(a, take(c.Jobs(ctx, client.JobFilter{Kind: k.Kind, State: k.State}), k.Limit),
		[]string{"ID", "KIND", "STATE", "DONE", "FAILED", "CREATED", "ENDED", "BY"}, func(j wire.Job) []string {
			return []string{j.ID, j.Kind, a.state(j.State), progressOf(j), number(j.Failed), when(j.CreatedAt), whenSet(j.EndedAt), j.CreatedBy}
		})
}

func progressOf(j wire.Job) string {
	if j.Total > 0 {
		return fmt.Sprintf("%d/%d", j.Done, j.Total)
	}
	return fmt.Sprint(j.Done)
}

type jobsShowCmd struct {
	ID    string `arg:"" help:"Id of the job."`
	Watch bool   `help:"Follow it until it has ended, with a bar on a terminal; exit code 1 when it failed."`
}

func (k jobsShowCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	if k.Watch {
		return watchJob(ctx, a, c, k.ID)
	}
	j, err := c.Job(ctx, k.ID)
	if err != nil {
		return err
	}
	return showJob(a, j)
}

// watchJob follows a job to its end, and shows it. One that did not do all that it was to do is a failure.
func watchJob(ctx context.Context, a *app, c *client.Client, id string) error {
	bar := a.progress(-1, "job", false)
	j, err := c.WaitJob(ctx, id, func(j *wire.Job) {
		if j.Total > 0 && bar.GetMax64() != j.Total {
			bar.ChangeMax64(j.Total)
		}
		bar.Describe(printable(j.Kind + " " + j.State))
		_ = bar.Set64(j.Done + j.Failed) // only a bar that is not drawn can fail at it
	})
	_ = bar.Exit() // as above
	if err != nil {
		return err
	}
	if err := showJob(a, j); err != nil {
		return err
	}
	if j.State != "done" || j.Failed > 0 {
		return &exitError{exitFailure, fmt.Sprintf("the job ended as %s; failed: %d", printable(j.State), j.Failed)}
	}
	return nil
}

func showJob(a *app, j *wire.Job) error {
	return a.show(j, func() error {
		problem := ""
		if j.Error != nil {
			problem = j.Error.Message + " (" + j.Error.Code + ")"
		}
		whose := ""
		if j.Deployment {
			whose = "the deployment"
		}
		err := a.fields("id", j.ID, "kind", j.Kind, "state", a.state(j.State), "of", whose, "params", string(j.Params), "done", progressOf(*j),
			"failed", number(j.Failed), "error", problem, "attempts that failed", number(j.Attempts), "next attempt", whenSet(j.RetryAt),
			"node", j.Node, "created by", j.CreatedBy, "created", when(j.CreatedAt), "started", whenSet(j.StartedAt), "updated", when(j.UpdatedAt),
			"ended", whenSet(j.EndedAt))
		for _, f := range j.Failures {
			if err == nil {
				err = a.printf("%s: %s (%s)\n", printable(f.Resource), printable(f.Error.Message), printable(f.Error.Code))
			}
		}
		return err
	})
}

type jobsCancelCmd struct {
	ID string `arg:"" help:"Id of the job."`
}

func (k jobsCancelCmd) Run(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	j, err := c.CancelJob(ctx, k.ID)
	if err != nil {
		return err
	}
	return showJob(a, j)
}
