package transport

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"testing"
)

// FuzzProxyHeader: a header ends where it says, and the address is the one that stands in it.
func FuzzProxyHeader(f *testing.F) {
	for _, text := range []string{
		"0d0a0d0a000d0a515549540a2111000ccb007109c000020130392008474554", "0d0a0d0a000d0a515549540a20000000", "0d0a0d0a000d0a515549540a2100000401020304",
		"0d0a0d0a000d0a515549540a2121002420010db800000000000000000000000120010db800000000000000000000000230392008", "50524f5859", "",
	} {
		b, err := hex.DecodeString(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		client, own, err := readProxyHeader(r)
		if err != nil {
			if client.IsValid() || own {
				t.Error("an address and an error")
			}
			return
		}
		used := len(b) - r.Len()
		if !bytes.HasPrefix(b, proxySignature[:]) || b[12]>>4 != 2 || used != proxyFixed+int(binary.BigEndian.Uint16(b[14:])) {
			t.Errorf("%d bytes of %x are taken", used, b)
		}
		if own != (b[12] == proxyLocal) {
			t.Errorf("%x is the proxy's own: %v", b, own)
		}
		if client.IsValid() {
			at := b[proxyFixed:]
			want := at[:4]
			if b[13] == proxyTCP6 {
				want = at[:16]
				if a := client.Addr(); a.Is4() {
					want = at[12:16]
				}
			}
			if !bytes.Equal(client.Addr().AsSlice(), want) {
				t.Errorf("%v of %x", client, b)
			}
		}
	})
}
