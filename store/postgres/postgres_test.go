package postgres_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/store/postgres"
	"github.com/keywright/keywright/store/storetest"
)

func open(t testing.TB, uri string, o postgres.Options) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), uri, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

var schemas atomic.Int32

// options are those of a store in a schema of its own.
func options(server *rig.Server) postgres.Options {
	return postgres.Options{PasswordFile: server.PasswordFile, Schema: fmt.Sprintf("test %d", schemas.Add(1))}
}

func wantFault(t *testing.T, what string, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Errorf("%s: got %v, want code %q", what, err, code)
	}
}

func TestConformance(t *testing.T) {
	server := rig.Postgres(t)
	storetest.Run(t, func(t *testing.T) (storetest.Store, func(*testing.T) storetest.Store) {
		o := options(server)
		again := func(t *testing.T) storetest.Store { return open(t, server.URI, o) }
		return again(t), again
	})
}
