package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/client"
)

// Encrypt under a key that is made when it is not there yet.
func Example() {
	ctx := context.Background()
	key, err := os.ReadFile("data/owner.key")
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.New(client.Options{Address: client.DefaultAddress, Key: strings.TrimSpace(string(key))})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	_, err = c.CreateKey(ctx, wire.CreateKey{Name: "app", Algorithm: "AES-256-GCM"})
	if err != nil && !client.HasCode(err, "ERR_NAME_TAKEN") {
		log.Fatal(err)
	}
	sealed, err := c.Encrypt(ctx, wire.Encrypt{Target: wire.Target{Key: "app"}, EncryptItem: wire.EncryptItem{Plaintext: []byte("a secret")}})
	if err != nil {
		log.Fatal(err)
	}
	opened, err := c.Decrypt(ctx, wire.Decrypt{DecryptItem: wire.DecryptItem{Ciphertext: sealed.Ciphertext}})
	var e *client.Error
	switch {
	case errors.As(err, &e):
		log.Fatalf("%s, logged as %s", e.Code, e.RequestID)
	case err != nil:
		log.Fatal(err)
	}
	fmt.Println(string(opened.Plaintext), opened.KeyVersion)

	for k, err := range c.Keys(ctx, client.KeyFilter{NamePrefix: "app"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(k.Name, k.State)
	}
}
