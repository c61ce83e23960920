package api

import (
	"encoding/base64"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"
	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// encodeOptions: omitempty in package wire is meant as encoding/json means it, so that a zero number is left out.
var encodeOptions = json.JoinOptions(json.Deterministic(true), jsonv1.OmitEmptyWithLegacySemantics(true))

// appender is a result that writes itself: the results of the hot operations, without reflection.
type appender interface {
	size() int // about how many bytes it will be, rather more than less: what does not fit is copied and not wiped
	appendJSON(b []byte) []byte
}

// appendData writes the success envelope around v into c.out.
func (c *call) appendData(v any) error {
	a, ok := v.(appender)
	if ok {
		c.out.Grow(a.size())
	}
	b := c.out.AvailableBuffer()
	b = append(b, `{"data":`...)
	if ok {
		b = a.appendJSON(b)
		c.out.Write(c.appendTail(b))
		return nil
	}
	c.out.Write(b)
	if err := json.MarshalWrite(&c.out, v, encodeOptions); err != nil {
		return err
	}
	c.out.Write(c.appendTail(c.out.AvailableBuffer()))
	return nil
}

// appendTail ends an envelope: request id and time.
func (c *call) appendTail(b []byte) []byte {
	b = append(b, `,"request_id":"`...)
	b = append(b, c.id...) // well-formed: nothing in it needs an escape
	b = append(b, `","timestamp":"`...)
	b = time.Now().UTC().AppendFormat(b, c.route.timeForm())
	return append(b, `"}`...)
}

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x7f {
			// Its error says that s was not UTF-8: what it gives then has replacement characters, and is valid JSON.
			q, _ := jsontext.AppendQuote(b, s)
			return q
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func appendBytes(b, v []byte) []byte {
	b = append(b, '"')
	b = base64.StdEncoding.AppendEncode(b, v)
	return append(b, '"')
}

func appendError(b []byte, f *fault.Error) []byte { return appendErrorAs(b, string(f.Code), f.Message) }

func appendErrorAs(b []byte, code, message string) []byte {
	b = append(b, `{"error_code":"`...)
	b = append(b, code...)
	b = append(b, `","message":`...)
	b = appendString(b, message)
	return append(b, '}')
}

// appendUsed writes the fields of wire.Used, each with a comma before it.
func appendUsed(b []byte, u keys.Used) []byte {
	if u.KeyID != uuid.Nil {
		b = append(b, `,"key_id":"`...)
		b = appendUUID(b, u.KeyID)
		b = append(b, '"')
	}
	if u.Version != 0 {
		b = append(b, `,"key_version":`...)
		b = strconv.AppendUint(b, uint64(u.Version), 10)
	}
	if u.Compromised {
		b = append(b, `,"key_state":"compromised"`...)
	}
	return b
}

func appendUUID(b []byte, u uuid.UUID) []byte {
	const digits = "0123456789abcdef"
	for i, c := range u {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, digits[c>>4], digits[c&15])
	}
	return b
}
