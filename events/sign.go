package events

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/secret"
)

// LabelSecrets is the label under which the key that seals the secrets of webhooks is derived from the root.
const LabelSecrets = "keywright/v1/webhook-secrets"

// Of Standard Webhooks 1.0: "Symmetric signatures".
const (
	secretPrefix = "whsec_"
	secretBytes  = 32
	headerID     = "webhook-id"
	headerTime   = "webhook-timestamp"
	headerSigned = "webhook-signature"
)

// newSecret makes a secret and the form in which it is shown.
func newSecret() (raw secret.Bytes, shown string) {
	raw = make(secret.Bytes, secretBytes)
	rand.Read(raw) //nolint:errcheck // never fails: it ends the program instead
	return raw, secretPrefix + base64.StdEncoding.EncodeToString(raw)
}

// Sign gives the value of the header webhook-signature: HMAC-SHA-256 (RFC 2104) of "id.timestamp.body" under each secret, the newest first.
func Sign(secrets []secret.Bytes, id string, at time.Time, body []byte) string {
	out := make([]byte, 0, len(secrets)*48)
	content := append(strconv.AppendInt([]byte(id+"."), at.Unix(), 10), '.')
	for i, s := range secrets {
		h := hmac.New(sha256.New, s)
		h.Write(content) // never fails (hash.Hash)
		h.Write(body)
		if i > 0 {
			out = append(out, ' ')
		}
		out = append(out, "v1,"...)
		out = base64.StdEncoding.AppendEncode(out, h.Sum(nil))
	}
	return string(out)
}

// messageID is the webhook-id of an event for a webhook, the same in every attempt and from every node.
func messageID(webhook uuid.UUID, index uint64) string {
	return "msg_" + hex.EncodeToString(webhook[:]) + "_" + strconv.FormatUint(index, 10)
}

// binding is what a sealed secret is bound to: a label with a zero byte, the tenant and the webhook.
func binding(w *Webhook) []byte {
	b := append([]byte("webhook\x00"), w.Tenant[:]...)
	return append(b, w.ID[:]...)
}

func seal(derive Derive, raw secret.Bytes, w *Webhook) ([]byte, error) {
	key, err := derive(LabelSecrets)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return envelope.SealSoftware(key, raw, binding(w))
}

// open gives the secrets of a webhook with which to sign at a time. The caller wipes them.
func open(derive Derive, w *Webhook, now time.Time) ([]secret.Bytes, error) {
	key, err := derive(LabelSecrets)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	first, err := envelope.OpenSoftware(key, w.Secret, binding(w))
	if err != nil {
		return nil, err
	}
	out := []secret.Bytes{first}
	if w.Prior != nil && now.Before(w.PriorUntil) {
		prior, err := envelope.OpenSoftware(key, w.Prior, binding(w))
		if err != nil {
			first.Wipe()
			return nil, err
		}
		out = append(out, prior)
	}
	return out, nil
}

func wipe(secrets []secret.Bytes) {
	for _, s := range secrets {
		s.Wipe()
	}
}
