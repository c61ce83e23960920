package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/gin-gonic/gin"
)

// serveFloor is what nothing can be faster than: a bare Gin handler that reads the same JSON, does the same AES-256-GCM
// and writes the same JSON. No authentication, no key store, no audit, no metrics. It prints its address and serves until killed.
func serveFloor() error {
	gin.SetMode(gin.ReleaseMode)
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return err
	}
	type item struct {
		Plaintext []byte `json:"plaintext"`
		AAD       []byte `json:"aad"`
	}
	type request struct {
		item
		Items []item `json:"items"`
	}
	type answer struct {
		Ciphertext []byte `json:"ciphertext"`
		KeyID      string `json:"key_id"`
		KeyVersion int    `json:"key_version"`
	}
	const id = "00000000-0000-4000-8000-000000000000"
	r := gin.New()
	r.POST("/encrypt", func(c *gin.Context) {
		var req request
		if err := c.ShouldBindJSON(&req); err != nil {
			c.JSON(http.StatusBadRequest, gin.H{"error": "bad request"})
			return
		}
		if len(req.Items) == 0 {
			c.JSON(http.StatusOK, gin.H{"data": answer{aead.Seal(nil, nil, req.Plaintext, req.AAD), id, 1}}) //nolint:gosec // this cipher picks the nonce itself and takes none
			return
		}
		out := make([]answer, len(req.Items))
		for i, it := range req.Items {
			out[i] = answer{aead.Seal(nil, nil, it.Plaintext, it.AAD), id, 1} //nolint:gosec // as above
		}
		c.JSON(http.StatusOK, gin.H{"data": gin.H{"items": out}})
	})
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "http://%s\n", l.Addr())
	srv := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	return srv.Serve(l)
}
