package backup_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/backup"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/root"
	"github.com/keywright/keywright/secret"
	"github.com/keywright/keywright/store/sqlite"
	"github.com/keywright/keywright/store/storetest"
)

// fixture is a store with a log, and a service that backs it up.
type fixture struct {
	store   *sqlite.Store
	log     *audit.Log
	service *backup.Service
	options backup.Options
}

// rootBytes are the root of the tests.
var rootBytes = bytes.Repeat([]byte{7}, 32)

// deriveAt is root.Keeper's, of the first generation.
func deriveAt(label string, generation uint32) (secret.Bytes, error) {
	if generation != 1 {
		return nil, fault.New(fault.KeyMaterial, "no such root")
	}
	return hkdf.Key(sha256.New, rootBytes, nil, label, root.Size)
}

func backupKey(t testing.TB) secret.Bytes {
	t.Helper()
	key, err := deriveAt(backup.Label, 1)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signer is a signing key in memory.
type signer struct{ ed25519.PrivateKey }

func newSigner(seed byte) signer {
	return signer{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))}
}

func (s signer) Public() ed25519.PublicKey { return s.PrivateKey.Public().(ed25519.PublicKey) }

func (s signer) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(s.PrivateKey, message), nil
}

var who = backup.Caller{Tenant: uuid.MustParse("00000000-0000-7000-8000-000000000001"), Principal: "api-key:1", RequestID: "r-1"}

func newFixture(t testing.TB, keys int) *fixture {
	t.Helper()
	f := &fixture{}
	var err error
	if f.store, err = sqlite.Open(t.Context(), filepath.Join(memory(t), "store.db"), sqlite.Options{}); err != nil {
		t.Fatal(err)
	}
	checkpoints := newSigner(1)
	f.log, err = audit.Open(t.Context(), f.store, audit.Options{Origin: "keywright/" + f.store.Deployment().String(), CheckpointEvery: -1,
		Signer: func(context.Context) (audit.CheckpointSigner, error) { return checkpoints, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.log.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := f.store.Close(); err != nil { // waits for snapshots
			t.Error(err)
		}
	})
	f.record(t, "root.init", f.store.InsertFirstSlot(&root.Slot{ID: uuid.New(), Kind: root.KindKeyFile, Label: "é", Params: []byte(`{"v":1}`), Sealed: []byte{1, 2, 3},
		CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}))
	for i := range keys {
		k, v := storetest.NewKey(who.Tenant, fmt.Sprintf("key %d", i))
		f.record(t, "key.create", f.store.InsertKey(k, v))
	}
	f.options = backup.Options{Source: f.store, Audit: f.log, DeriveAt: deriveAt, Release: "test",
		Signer: func(context.Context) (backup.Signer, error) { return newSigner(2), nil }}
	f.service = backup.New(f.options)
	return f
}

func (f *fixture) record(t testing.TB, action string, changes ...audit.Change) {
	t.Helper()
	if _, err := f.log.Record(t.Context(), &audit.Entry{Tenant: who.Tenant, Principal: "system", Action: action, Outcome: "ok"}, changes...); err != nil {
		t.Fatal(err)
	}
}

// make gives a backup.
func (f *fixture) make(t testing.TB) ([]byte, backup.Summary) {
	t.Helper()
	var out bytes.Buffer
	sum, err := f.service.Write(t.Context(), who, &out)
	if err != nil {
		t.Fatalf("Write: %v", err)
	}
	return out.Bytes(), sum
}

// memory is a folder in memory where there is such a place.
func memory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "backup-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// verify opens and verifies a file in whole.
func verify(t testing.TB, file []byte, key string) (backup.Summary, error) {
	t.Helper()
	f, err := backup.Open(bytes.NewReader(file))
	if err != nil {
		return backup.Summary{}, err
	}
	return f.Verify(t.Context(), backupKey(t), key)
}

// check looks at a file without the root.
func check(file []byte, key string) error {
	f, err := backup.Open(bytes.NewReader(file))
	if err != nil {
		return err
	}
	_, err = f.Check(key)
	return err
}
