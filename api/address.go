package api

import (
	"net/netip"
	"strings"
)

// address gives the address of the client: the peer's own, or, where the peer is a trusted proxy, the one that the proxies tell of, read from
// the nearest to the first that is none of them (RFC 7239 section 7.4 says why not the other way round). Not valid: nobody knows.
func (c *call) address() netip.Addr {
	r := c.gin.Request
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	at := peer.Addr().Unmap().WithZone("")
	if !c.s.trusts(at) {
		return at
	}
	lines := r.Header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		for rest, more := lines[i], true; more; {
			hop := rest
			if cut := strings.LastIndexByte(rest, ','); cut >= 0 {
				rest, hop = rest[:cut], rest[cut+1:]
			} else {
				more = false
			}
			if at, err = netip.ParseAddr(strings.Trim(hop, " \t")); err != nil {
				return netip.Addr{}
			}
			if at = at.Unmap().WithZone(""); !c.s.trusts(at) {
				return at
			}
		}
	}
	return at
}

// trusts reports whether a trusted proxy stands at the address.
func (s *Server) trusts(a netip.Addr) bool {
	for _, p := range s.proxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
