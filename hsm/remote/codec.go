package remote

import (
	"encoding/binary"
	"errors"
)

// Everything is big-endian and of one possible form: integers have their full size, strings and lists a 32-bit length or count
// before them, truth values are one byte 0 or 1. So each message has exactly one encoding.

var errMalformed = errors.New("malformed frame")

func appendBytes[T ~[]byte | ~string](b []byte, p T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(p))), p...)
}

func appendInt(b []byte, n int) []byte { return binary.BigEndian.AppendUint64(b, uint64(int64(n))) }

func appendBool(b []byte, v ...bool) []byte {
	for _, x := range v {
		if x {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	return b
}

func appendStrings[T ~string](b []byte, list []T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
	for _, s := range list {
		b = appendBytes(b, s)
	}
	return b
}

// decoder reads a message. After the first fault everything that it gives is zero and end reports it.
type decoder struct {
	b   []byte
	bad bool
}

// next gives the next n bytes, which belong to the frame.
func (d *decoder) next(n int) []byte {
	if d.bad || n < 0 || n > len(d.b) {
		d.bad = true
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) u8() uint8 {
	if p := d.next(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if p := d.next(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if p := d.next(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

func (d *decoder) integer() int { return int(int64(d.u64())) }

func (d *decoder) boolean() bool {
	v := d.u8()
	d.bad = d.bad || v > 1
	return v == 1
}

// bytes gives a byte string that belongs to the frame: nil when it is empty.
func (d *decoder) bytes() []byte {
	n := d.u32()
	if n > maxFrame {
		d.bad = true
	}
	if d.bad || n == 0 {
		return nil
	}
	return d.next(int(n))
}

func (d *decoder) str() string { return string(d.bytes()) }

// owned gives a byte string that belongs to the caller: nil when it is empty.
func (d *decoder) owned() []byte { return append([]byte(nil), d.bytes()...) }

// count reads the length of a list whose elements have at least least bytes each, so that no length makes us allocate more than a
// small multiple of the frame.
func (d *decoder) count(least int) int {
	n := d.u32()
	if uint64(n)*uint64(least) > uint64(len(d.b)) {
		d.bad = true
	}
	if d.bad {
		return 0
	}
	return int(n)
}

func decodeStrings[T ~string](d *decoder) []T {
	n := d.count(4)
	if n == 0 {
		return nil
	}
	list := make([]T, n)
	for i := range list {
		list[i] = T(d.str())
	}
	return list
}

func (d *decoder) end() error {
	if d.bad || len(d.b) > 0 {
		return errMalformed
	}
	return nil
}
