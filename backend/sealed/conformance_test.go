package sealed_test

import (
	"context"
	"crypto/rand"
	"testing"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/backend/backendtest"
	"github.com/keywright/keywright/backend/sealed"
	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/secret"
)

// device is a backend of sealed custody and nothing else, as an HSM that lacks every mechanism would be.
type device struct {
	*sealed.Engine
	info backend.Info
}

func (d *device) Info() backend.Info { return d.info }

// deviceKey stands in for the key that never leaves a device.
type deviceKey []byte

func (k deviceKey) Seal(_ context.Context, plaintext, binding []byte) ([]byte, error) {
	return envelope.SealSoftware(k, plaintext, binding)
}

func (k deviceKey) Open(_ context.Context, blob, binding []byte) (secret.Bytes, error) {
	return envelope.OpenSoftware(k, blob, binding)
}

func opener(id string) func(testing.TB, string) backend.Backend {
	key := make(deviceKey, 32)
	rand.Read(key)
	return func(t testing.TB, name string) backend.Backend {
		t.Helper()
		e, err := sealed.New(key, sealed.Options{Name: name, Custody: backend.CustodySealed})
		if err != nil {
			t.Fatal(err)
		}
		return &device{e, backend.Info{Kind: "hsm", Name: name, ID: id, Custody: []backend.Custody{backend.CustodySealed}, Capabilities: e.Capabilities()}}
	}
}

// TestConformance runs the suite over sealed custody. The vectors run over the software backend, which is the same engine.
func TestConformance(t *testing.T) {
	var all []backend.Algorithm
	for _, a := range backend.Algorithms() {
		all = append(all, a.Name)
	}
	backendtest.Run(t, backendtest.Harness{
		Open: opener("one"), Foreign: opener("two"),
		Requires: backendtest.Requirements{Algorithms: all, Import: true, Export: true},
		Only: []string{"info", "unsupported", "handles", "aead", "kwp", "mac", "sign", "oaep", "agree", "import", "import-wrapped", "export",
			"refs", "destroy", "contexts", "close", "close-in-use"},
	})
}
