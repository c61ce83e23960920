package remote

import (
	"encoding/binary"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/hsm/token"
	"github.com/keywright/keywright/secret"
)

func appendConfig(b []byte, c *token.Config) []byte {
	for _, s := range []string{c.Module, c.InitArgs, c.Serial, c.Label} {
		b = appendBytes(b, s)
	}
	b = appendBytes(appendBytes(b, c.PIN), c.Profile)
	b = appendBool(appendInt(appendInt(b, c.Sessions), c.Queue), c.AcceptLeaks)
	b = appendBytes(appendInt(b, c.ReinitEvery), c.KEKLabel)
	return appendInt(b, c.WrappedCache)
}

// decodeConfig gives a configuration whose PIN belongs to the caller.
func decodeConfig(body []byte) (c token.Config, err error) {
	d := decoder{b: body}
	c.Module, c.InitArgs, c.Serial, c.Label = d.str(), d.str(), d.str(), d.str()
	c.PIN, c.Profile = secret.Bytes(d.owned()), d.str()
	c.Sessions, c.Queue, c.AcceptLeaks = d.integer(), d.integer(), d.boolean()
	c.ReinitEvery, c.KEKLabel = d.integer(), d.str()
	c.WrappedCache = d.integer()
	return c, d.end()
}

func appendDescription(b []byte, t *token.Description) []byte {
	for _, s := range []string{t.Serial, t.Label, t.Manufacturer, t.Model, t.Firmware, t.Library} {
		b = appendBytes(b, s)
	}
	b = appendInt(binary.BigEndian.AppendUint64(b, uint64(t.Slot)), t.MaxSessions)
	b = binary.BigEndian.AppendUint32(b, uint32(len(t.Mechanisms)))
	for _, m := range t.Mechanisms {
		b = binary.BigEndian.AppendUint64(b, uint64(m.Type))
		b = appendBytes(b, m.Name)
		for _, n := range []uint{m.MinSize, m.MaxSize, m.Flags} {
			b = binary.BigEndian.AppendUint64(b, uint64(n))
		}
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(t.Capabilities)))
	for _, c := range t.Capabilities {
		b = appendBytes(appendBytes(b, c.Algorithm), c.Custody)
		b = appendBool(appendStrings(b, c.Operations), c.Import)
	}
	b = appendStrings(appendStrings(appendBool(b, t.Wrapping), t.Wrappable), t.Quirks)
	b = appendStrings(appendStrings(b, t.Inside), t.InsideHashes)
	return binary.BigEndian.AppendUint64(appendBool(b, t.LeaksWrapped), t.Generation)
}

// Sizes of a mechanism and a capability whose strings and lists are all empty.
const (
	leastMechanism  = 8 + 4 + 3*8
	leastCapability = 3*4 + 1
)

func decodeDescription(body []byte) (t token.Description, err error) {
	d := decoder{b: body}
	for _, p := range []*string{&t.Serial, &t.Label, &t.Manufacturer, &t.Model, &t.Firmware, &t.Library} {
		*p = d.str()
	}
	t.Slot, t.MaxSessions = uint(d.u64()), d.integer()
	for n := d.count(leastMechanism); n > 0 && !d.bad; n-- {
		m := token.Mechanism{Type: uint(d.u64()), Name: d.str()}
		m.MinSize, m.MaxSize, m.Flags = uint(d.u64()), uint(d.u64()), uint(d.u64())
		t.Mechanisms = append(t.Mechanisms, m)
	}
	for n := d.count(leastCapability); n > 0 && !d.bad; n-- {
		c := backend.Capability{Algorithm: backend.Algorithm(d.str()), Custody: backend.Custody(d.str())}
		c.Operations, c.Import = decodeStrings[backend.Operation](&d), d.boolean()
		t.Capabilities = append(t.Capabilities, c)
	}
	t.Wrapping, t.Wrappable = d.boolean(), decodeStrings[backend.Algorithm](&d)
	t.Quirks = decodeStrings[string](&d)
	t.Inside, t.InsideHashes = decodeStrings[backend.Algorithm](&d), decodeStrings[string](&d)
	t.LeaksWrapped, t.Generation = d.boolean(), d.u64()
	return t, d.end()
}
