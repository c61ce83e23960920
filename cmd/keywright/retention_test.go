package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/store/sqlite"
)

// agelogScript makes the store of a service that starts later, with a log of so many entries that are so old: agelog DATA COUNT AGE.
func agelogScript(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: agelog DATA COUNT AGE")
	}
	count, err := strconv.Atoi(args[1])
	ts.Check(err)
	age, err := time.ParseDuration(args[2])
	ts.Check(err)
	data := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(data, 0o700))
	ctx := context.Background()
	s, err := sqlite.Open(ctx, filepath.Join(data, "keywright.db"), sqlite.Options{})
	ts.Check(err)
	log, err := audit.Open(ctx, s, audit.Options{Origin: "keywright/" + s.Deployment().String(), CheckpointEvery: -1,
		Now: func() time.Time { return time.Now().Add(-age) }})
	ts.Check(err)
	const writers = 64
	errs := make([]error, writers)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := w; i < count && errs[w] == nil; i += writers {
				_, errs[w] = log.Record(ctx, &audit.Entry{Tenant: firstTenant(s.Deployment()), Principal: "system", Action: "aged", Outcome: "ok", Items: i})
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		ts.Check(err)
	}
	ts.Check(log.Close(ctx))
	ts.Check(s.Close())
}
