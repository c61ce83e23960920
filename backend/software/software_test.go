package software_test

import (
	"crypto/rand"
	"github.com/keywright/keywright/backend/software"
	"github.com/keywright/keywright/secret"
	"testing"
)

func TestPing(t *testing.T) {
	k := make([]byte, 32)
	rand.Read(k)
	b, err := software.Open(t.Context(), software.Options{Name: "s", Derive: func(string) (secret.Bytes, error) { return append(secret.Bytes(nil), k...), nil }})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Close()
}
