package postgres_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/softhsm-test/rig"
	"github.com/keywright/keywright/store/postgres"
	"github.com/keywright/keywright/store/storetest"
)

// testVersionRecords: all versions once, over several pages, beside the open store.
func testVersionRecords(t *testing.T, server *rig.Server) {
	o := options(server)
	wantFault(t, "no store", postgres.VersionRecords(t.Context(), server.URI, o, nil), fault.StoreCorrupted)
	s := open(t, server.URI, o)
	type at struct {
		key     uuid.UUID
		version uint32
	}
	want := map[at][]byte{}
	var batch []*audit.Item
	for i := range 1100 {
		k, v := storetest.NewKey(uuid.New(), fmt.Sprint("k", i))
		second := *v
		second.Version, second.Blob = 2, nil
		want[at{k.ID, 1}], want[at{k.ID, 2}] = v.Blob, nil
		batch = append(batch, storetest.Item(s.InsertKey(k, v), s.InsertVersion(&second)))
	}
	if err := s.Commit(t.Context(), batch, storetest.Extend); err != nil {
		t.Fatal(err)
	}
	err := postgres.VersionRecords(t.Context(), server.URI, o, func(r postgres.VersionRecord) error {
		blob, there := want[at{r.Key, r.Version}]
		if !there || !bytes.Equal(blob, r.Material) || (blob == nil) != (r.Material == nil) || r.State != "active" || r.Backend != "software:test" {
			t.Errorf("a record twice, or another: %+v", r)
		}
		delete(want, at{r.Key, r.Version})
		return nil
	})
	if err != nil || len(want) != 0 {
		t.Errorf("%d records are missing, %v", len(want), err)
	}
	stop := errors.New("enough")
	if err := postgres.VersionRecords(t.Context(), server.URI, o, func(postgres.VersionRecord) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("f's error became %v", err)
	}
}
