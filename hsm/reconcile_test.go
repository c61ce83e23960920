package hsm

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/hsm/token"
)

func TestReconcile(t *testing.T) {
	key := func(n byte) (u uuid.UUID) { u[0], u[15] = n, n; return u }
	id := func(n byte, version uint32) token.ID { return idOf(&backend.Spec{KeyID: key(n), Version: version}) }
	material := func(p place, name string, n byte, version uint32) []byte {
		var wrapped []byte
		if p == placeWrapped {
			wrapped = []byte("wrapped")
		}
		return append(appendBody(p, byToken, name, id(n, version), wrapped), make([]byte, tagSize)...)
	}
	objects := []token.Object{
		{ID: id(1, 1), Algorithm: backend.AES256GCM},
		{ID: id(1, 258), Algorithm: backend.AES256GCM},
		{ID: id(2, 1), Algorithm: backend.ECDSAP256},
		{ID: id(9, 7), Algorithm: backend.HMACSHA256},
		{ID: id(5, 1), Algorithm: backend.Ed25519},
		{ID: bindingKey().ID, Algorithm: backend.HMACSHA256},
	}
	records := []Record{
		{key(1), 1, "active", material(placeResident, "serial", 1, 1)},
		{key(1), 258, "deactivated", material(placeResident, "label", 1, 258)},
		{key(2), 1, "destroyed", nil},
		{key(3), 1, "active", material(placeResident, "serial", 3, 1)},
		{key(3), 2, "destroyed", material(placeResident, "serial", 3, 2)},
		{key(3), 3, "active", material(placeResident, "another token", 3, 3)},
		{key(4), 1, "active", material(placeWrapped, "serial", 4, 1)},
		{key(4), 2, "active", []byte("of another backend")},
		{key(4), 3, "active", nil},
		{key(5), 1, "creating", nil},
	}
	got, err := Reconcile(objects, []string{"serial", "label"}, func(yield func(Record) error) error {
		for _, r := range records {
			if err := yield(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &Reconciliation{Objects: 5, Records: 3,
		Orphans:  []Finding{{key(2), 1, "destroyed", "ECDSA-P256"}, {key(9), 7, "", "HMAC-SHA256"}},
		Missing:  []Finding{{key(3), 1, "active", "serial"}},
		Creating: []Finding{{key(5), 1, "creating", "Ed25519"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.Clean() {
		t.Error("it is not clean")
	}
	earlier := &Reconciliation{Orphans: got.Orphans[1:], Missing: nil, Creating: []Finding{{key(5), 2, "creating", "Ed25519"}}}
	want = &Reconciliation{Objects: 5, Records: 3, Orphans: []Finding{{key(9), 7, "", "HMAC-SHA256"}}, Missing: []Finding{}, Creating: []Finding{}}
	if diff := cmp.Diff(want, got.Confirm(earlier)); diff != "" {
		t.Errorf("what is confirmed: %s", diff)
	}
	if none, err := Reconcile(nil, nil, func(func(Record) error) error { return nil }); err != nil || !none.Clean() || none.Orphans == nil {
		t.Errorf("nothing against nothing: %+v, %v", none, err)
	}
	broken := errors.New("the store is gone")
	if _, err := Reconcile(objects, nil, func(func(Record) error) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a store that fails must not look empty: %v", err)
	}
}
