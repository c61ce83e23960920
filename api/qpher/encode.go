package qpher

import (
	"encoding/base64"
	"strconv"

	"github.com/keywright/keywright/keys"
)

// Answer is the answer of a cryptographic operation. It writes itself, without reflection, so that what is secret in it is in no memory that
// nobody knows of.
type Answer struct {
	parts     [2]part
	isVerdict bool
	valid     bool
	used      keys.Used
	algorithm string
	tail      string // more members, each with a comma before it; of our own making
}

// part is a binary member.
type part struct {
	name   string // "": none
	bytes  []byte
	secret bool
}

// Size is more than AppendJSON writes, with room for the envelope around it: a buffer that had to grow would leave a copy behind.
func (a *Answer) Size() int {
	n := 512 + len(a.tail)
	for i := range a.parts {
		n += len(a.parts[i].name) + 8 + base64.StdEncoding.EncodedLen(len(a.parts[i].bytes))
	}
	return n
}

// Secrets gives what must be wiped once the answer is written.
func (a *Answer) Secrets() [][]byte {
	var out [][]byte
	for _, p := range a.parts {
		if p.secret {
			out = append(out, p.bytes)
		}
	}
	return out
}

// AppendJSON appends the answer as a JSON object.
func (a *Answer) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	for _, p := range a.parts {
		if p.name == "" {
			continue
		}
		b = append(b, '"')
		b = append(b, p.name...)
		b = append(b, `":"`...)
		b = base64.StdEncoding.AppendEncode(b, p.bytes)
		b = append(b, `",`...)
	}
	if a.isVerdict {
		b = append(b, `"valid":`...)
		b = strconv.AppendBool(b, a.valid)
		b = append(b, ',')
	}
	b = append(b, `"key_version":`...)
	b = strconv.AppendUint(b, uint64(a.used.Version), 10)
	b = append(b, `,"algorithm":"`...)
	b = append(b, a.algorithm...) // of the table: nothing in it needs an escape
	b = append(b, '"')
	if a.used.Compromised {
		b = append(b, `,"key_state":"compromised"`...)
	}
	b = append(b, a.tail...)
	return append(b, '}')
}
