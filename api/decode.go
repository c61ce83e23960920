package api

import (
	"bytes"
	"encoding/base64"
	"errors"
	"mime"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// errEncoding marks a binary field that is not strict base64.
var errEncoding = errors.New("not standard padded base64")

// strictBase64 is RFC 4648 section 4 with section 3.5 enforced: the unused bits of the last character are zero.
var strictBase64 = base64.StdEncoding.Strict()

// decodeOptions makes the options of strict decoding for a call. Binary fields are decoded into its arena, so that they can
// be wiped together once the call is over. Lists of items and contexts are bounded while they are read: a body of four
// mebibytes must not become a list of a million.
func decodeOptions(c *call) json.Options {
	return json.JoinOptions(json.RejectUnknownMembers(true), json.WithUnmarshalers(json.JoinUnmarshalers(
		json.UnmarshalFromFunc(func(d *jsontext.Decoder, p *[]byte) error {
			v, err := d.ReadValue()
			if err != nil {
				return err
			}
			*p, err = c.fields.base64(v)
			return err
		}),
		json.UnmarshalFromFunc(boundedContext),
		boundedItems(func() *[]wire.EncryptItem { return &c.batch.wireEncrypt }),
		boundedItems(func() *[]wire.DecryptItem { return &c.batch.wireDecrypt }),
		boundedItems[wire.DataKeyItem](nil),
		boundedItems[wire.WrapItem](nil),
		boundedItems[wire.UnwrapItem](nil),
		boundedItems[wire.SignItem](nil),
		boundedItems[wire.VerifyItem](nil),
		boundedItems[wire.MACItem](nil),
		boundedItems[wire.DeriveItem](nil),
		boundedItems[wire.EncapsulateItem](nil),
		boundedItems[wire.DecapsulateItem](nil),
	)))
}

// boundedItems reads a list of at most keys.MaxItems, into memory that is kept for the next call where there is any.
func boundedItems[T any](kept func() *[]T) *json.Unmarshalers {
	return json.UnmarshalFromFunc(func(d *jsontext.Decoder, p *[]T) error {
		if d.PeekKind() != '[' {
			return errors.ErrUnsupported // null, or what is not a list: the library knows what to say
		}
		if _, err := d.ReadToken(); err != nil {
			return err
		}
		list := []T{}
		if kept != nil {
			list = (*kept())[:0]
		}
		for d.PeekKind() != ']' {
			if len(list) == keys.MaxItems {
				return fault.New(fault.TooManyItems, "a batch has 1 to "+strconv.Itoa(keys.MaxItems)+" items")
			}
			var zero T
			list = append(list, zero)
			if kept != nil {
				*kept() = list // so that it is wiped whatever happens
			}
			if err := json.UnmarshalDecode(d, &list[len(list)-1]); err != nil {
				return err
			}
		}
		if _, err := d.ReadToken(); err != nil {
			return err
		}
		if list == nil {
			list = []T{} // there was a list, if an empty one
		}
		*p = list
		return nil
	})
}

// maxContext bounds the entries of an item's context, as of its labels.
const maxContext = keys.MaxLabels

func boundedContext(d *jsontext.Decoder, p *map[string]string) error {
	if d.PeekKind() != '{' {
		return errors.ErrUnsupported
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	m := make(map[string]string)
	for d.PeekKind() != '}' {
		if len(m) == maxContext {
			return fault.New(fault.BadSize, "an object of names and values has at most "+strconv.Itoa(maxContext)+" of them")
		}
		name, err := d.ReadToken()
		if err != nil {
			return err
		}
		key := name.String() // before the next read, which reuses the token's memory
		var value string
		if err := json.UnmarshalDecode(d, &value); err != nil {
			return err
		}
		m[key] = value
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	*p = m
	return nil
}

// arena is memory for the binary fields of one request. The decoded fields never need more than the body has.
type arena struct {
	buf []byte
}

// base64 decodes a JSON value: a string of padded base64, or null for nil.
func (a *arena) base64(v jsontext.Value) ([]byte, error) {
	switch v.Kind() {
	case 'n':
		return nil, nil
	case '"':
	default:
		return nil, &json.SemanticError{JSONKind: v.Kind(), GoType: reflect.TypeFor[[]byte]()}
	}
	return a.decode(v[1 : len(v)-1])
}

// decode decodes base64, if it is strict.
func (a *arena) decode(text []byte) ([]byte, error) {
	// The decoder skips line breaks; JSON has them only as escapes, and the backslash of an escape is none of the alphabet, however it is meant.
	// So nothing of the kind comes through, and this only says it once more.
	if bytes.IndexByte(text, '\n') >= 0 || bytes.IndexByte(text, '\r') >= 0 {
		return nil, errEncoding
	}
	n := strictBase64.DecodedLen(len(text))
	if cap(a.buf)-len(a.buf) < n {
		a.buf = make([]byte, 0, max(n, 1024))
	}
	dst := a.buf[len(a.buf) : len(a.buf)+n]
	m, err := strictBase64.Decode(dst, text)
	if err != nil {
		clear(dst)
		return nil, errEncoding
	}
	a.buf = a.buf[:len(a.buf)+m]
	return dst[:m:m], nil
}

// reserve sees to it that a whole body's fields fit without another allocation.
func (a *arena) reserve(n int) {
	if cap(a.buf) < n {
		a.buf = make([]byte, 0, n)
	}
}

// wipe overwrites everything that was decoded.
func (a *arena) wipe() {
	clear(a.buf)
	a.buf = a.buf[:0]
}

// decodeBody decodes a body into p, all of it or not at all.
func decodeBody(body []byte, p any, o json.Options) error {
	if err := json.Unmarshal(body, p, o); err != nil {
		return decodeFault(err)
	}
	if body[bytes.IndexAny(body, "{n")] == 'n' { // valid JSON, of these types: an object or null
		return fault.New(fault.BadJSON, "the body is not one valid JSON object")
	}
	return nil
}

// decodeFault says by its code and a pointer what was wrong with a body, never what stood there. The library's own text
// holds values and is dropped: it does not go into the log either.
func decodeFault(err error) error {
	var syntax *jsontext.SyntacticError
	var semantic *json.SemanticError
	var ours *fault.Error
	switch {
	case errors.As(err, &ours):
		return ours
	case errors.As(err, &semantic):
		at := pointer(semantic.JSONPointer)
		switch {
		case errors.Is(semantic.Err, json.ErrUnknownName):
			return fault.New(fault.UnknownField, "this request has no field"+at)
		case errors.Is(semantic.Err, errEncoding):
			return fault.New(fault.BadEncoding, "the field"+at+" must be standard padded base64")
		case semantic.Err != nil && semantic.GoType == reflect.TypeFor[time.Time]():
			return fault.New(fault.BadField, "the field"+at+" must be a time in RFC 3339")
		case semantic.Err != nil && semantic.JSONKind == '0':
			return fault.New(fault.BadField, "the field"+at+" must be a whole number within its range")
		}
		return fault.New(fault.BadJSON, "the value"+at+" is not of the type that this request needs there")
	case errors.As(err, &syntax):
		if errors.Is(syntax.Err, jsontext.ErrDuplicateName) {
			return fault.New(fault.BadJSON, "the body has the same name twice"+pointer(syntax.JSONPointer))
		}
		return fault.New(fault.BadJSON, "the body is not one valid JSON object (at byte "+strconv.FormatInt(syntax.ByteOffset, 10)+")")
	}
	return fault.New(fault.BadJSON, "the body is not one valid JSON object")
}

// pointer writes a JSON pointer (RFC 6901) for a message, with a blank before it. A part that does not look like a name
// is left out: it may be a value that slipped into the wrong place.
func pointer(p jsontext.Pointer) string {
	if p == "" {
		return ""
	}
	var b strings.Builder
	b.WriteByte(' ')
	n := 0
	for t := range p.Tokens() {
		if n++; n > 8 {
			b.WriteString("/…")
			break
		}
		b.WriteByte('/')
		if plainName(t) {
			b.WriteString(t)
		} else {
			b.WriteByte('?')
		}
	}
	return b.String()
}

// plainName reports whether a part of a pointer is a place in a list, or a word: what has digits in it may be a key, a PIN or a token.
func plainName(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	digits := 0
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9':
			digits++
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_', c == '-':
		default:
			return false
		}
	}
	return digits == 0 || digits == len(s) && digits <= 4
}

// isJSON accepts application/json, with charset=utf-8 or no parameter.
func isJSON(contentType string) bool {
	if contentType == "application/json" { // what nearly everybody sends
		return true
	}
	t, params, err := mime.ParseMediaType(contentType)
	if err != nil || t != "application/json" {
		return false
	}
	for k, v := range params {
		if k != "charset" || !strings.EqualFold(v, "utf-8") {
			return false
		}
	}
	return true
}
