package api

import (
	"bytes"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/keys"
)

// Nearly every body of the hot operations is {"plaintext":"…"} or {"items":[{"plaintext":"…"},…]}: names that are known and strings of base64, nothing else.
// These are read here in one pass, without reflection. Whatever is not that plain is left to the strict decoder as a whole, so that there is one place that
// says what is allowed and what is wrong with the rest; a test holds the two against each other.

// decodePlain decodes a plain body into p, which is zero, or reports that it is none: then p still is.
func (c *call) decodePlain(p any) bool {
	switch r := p.(type) {
	case *wire.Encrypt:
		return plain(c, &r.EncryptItem, &r.Items, &c.batch.wireEncrypt, func(i *wire.EncryptItem, name []byte) *[]byte {
			switch string(name) {
			case "plaintext":
				return &i.Plaintext
			case "aad":
				return &i.AAD
			}
			return nil
		})
	case *wire.Decrypt:
		return plain(c, &r.DecryptItem, &r.Items, &c.batch.wireDecrypt, func(i *wire.DecryptItem, name []byte) *[]byte {
			switch string(name) {
			case "ciphertext":
				return &i.Ciphertext
			case "aad":
				return &i.AAD
			}
			return nil
		})
	case *wire.Sign:
		return plain(c, &r.SignItem, &r.Items, nil, func(i *wire.SignItem, name []byte) *[]byte {
			switch string(name) {
			case "message":
				return &i.Message
			case "digest":
				return &i.Digest
			}
			return nil
		})
	case *wire.Decapsulate:
		return plain(c, &r.DecapsulateItem, &r.Items, nil, func(i *wire.DecapsulateItem, name []byte) *[]byte {
			if string(name) == "kem_ciphertext" {
				return &i.KEMCiphertext
			}
			return nil
		})
	}
	return false
}

// plain reads a body that is one item, or a list of them. kept is where a list lies that is used again for the next call, if there is one; field gives the field of an
// item with the name.
func plain[T any](c *call, one *T, list, kept *[]T, field func(*T, []byte) *[]byte) bool {
	t := text{rest: c.body}
	var zero T
	if !t.take('{') || !t.items() {
		t.rest = c.body
		if plainObject(c, &t, one, field) && t.end() {
			return true
		}
		*one = zero
		c.fields.wipe()
		return false
	}
	var found []T
	if kept != nil {
		found = (*kept)[:0]
	}
	ok := t.take('[')
	for more := true; ok && more; more = ok && t.take(',') {
		if ok = len(found) < keys.MaxItems; !ok {
			break
		}
		found = append(found, zero)
		ok = plainObject(c, &t, &found[len(found)-1], field)
	}
	if kept != nil {
		*kept = found // so that it is wiped whatever happens
	}
	if ok && t.take(']') && t.take('}') && t.end() {
		*list = found
		return true
	}
	clear(found)
	c.fields.wipe()
	return false
}

// plainObject reads an object of one or more fields of base64, none of them twice.
func plainObject[T any](c *call, t *text, item *T, field func(*T, []byte) *[]byte) bool {
	if !t.take('{') {
		return false
	}
	for {
		name, ok := t.quoted()
		if !ok || !t.take(':') {
			return false
		}
		into := field(item, name)
		value, ok := t.quoted()
		if !ok || into == nil || *into != nil {
			return false
		}
		var err error
		if *into, err = c.fields.decode(value); err != nil {
			return false
		}
		if !t.take(',') {
			return t.take('}')
		}
	}
}

// text is what is left of a body.
type text struct{ rest []byte }

// space skips what may stand between tokens (RFC 8259 section 2).
func (t *text) space() {
	for len(t.rest) > 0 && (t.rest[0] == ' ' || t.rest[0] == '\n' || t.rest[0] == '\t' || t.rest[0] == '\r') {
		t.rest = t.rest[1:]
	}
}

// take skips a character, if it is the next.
func (t *text) take(c byte) bool {
	if t.space(); len(t.rest) == 0 || t.rest[0] != c {
		return false
	}
	t.rest = t.rest[1:]
	return true
}

// quoted gives what stands between the next quotation mark and the one after it. It does not look for escapes: neither a known name nor base64 has any.
func (t *text) quoted() ([]byte, bool) {
	if !t.take('"') {
		return nil, false
	}
	n := bytes.IndexByte(t.rest, '"')
	if n < 0 {
		return nil, false
	}
	inside := t.rest[:n]
	t.rest = t.rest[n+1:]
	return inside, true
}

// items reads the name of a list of items.
func (t *text) items() bool {
	name, ok := t.quoted()
	return ok && string(name) == "items" && t.take(':')
}

func (t *text) end() bool {
	t.space()
	return len(t.rest) == 0
}
