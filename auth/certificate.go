package auth

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"time"
)

// CertificateRule assigns what the holder of a client certificate may do. One of the patterns is there, and it is matched as a whole: never a part of a
// name. Only certificates that TLS has verified are held against it.
type CertificateRule struct {
	// SPIFFEID is spiffe://TRUST-DOMAIN/PATH (SPIFFE-ID section 2), or ends in /*: then it is every id below, of any depth, and not the one above. A
	// certificate has such an id if it is an X.509-SVID: it has one URI name and no other, and is no CA's (X509-SVID sections 2 and 4).
	SPIFFEID string
	// Subject is the distinguished name in the form of RFC 2253, in the order that `openssl x509 -subject -nameopt RFC2253` has.
	Subject string
	// DNS, Email and URI are among the subject's alternative names (RFC 5280 section 4.2.1.6). A name with a * in the certificate matches none. DNS names,
	// and the domain of an address, in any case.
	DNS, Email, URI string

	Assignment
}

// MaxSPIFFEID is the longest SPIFFE ID, in bytes (SPIFFE-ID section 2.3).
const MaxSPIFFEID = 2048

// maxPattern bounds the other patterns, in bytes.
const maxPattern = 1024

// Check refuses rules without a pattern, with several, and with one that matches nothing or more than it seems to.
func (r *CertificateRule) Check() error {
	n := 0
	for _, p := range []string{r.SPIFFEID, r.Subject, r.DNS, r.Email, r.URI} {
		if p != "" {
			n++
		}
		if len(p) > MaxSPIFFEID || p != r.SPIFFEID && len(p) > maxPattern {
			return errors.New("a pattern is too long")
		}
	}
	if n != 1 {
		return errors.New("a rule for certificates has one of spiffe_id, subject, dns, email and uri")
	}
	for _, p := range []string{r.DNS, r.Email, r.URI} {
		if strings.ContainsAny(p, "* \t") {
			return errors.New("a name is matched as a whole: * stands for something at the end of a spiffe_id alone")
		}
	}
	switch {
	case r.SPIFFEID != "":
		id, below := strings.CutSuffix(r.SPIFFEID, "/*")
		if !validSPIFFEID(id, below) {
			return errors.New("a SPIFFE ID is spiffe://TRUST-DOMAIN/PATH, in the characters that SPIFFE allows, or ends in /* for all below")
		}
	case r.Email != "" && strings.Count(r.Email, "@") != 1:
		return errors.New("an e-mail address has one @")
	case strings.HasPrefix(strings.ToLower(r.URI), "spiffe:"):
		return errors.New("a SPIFFE ID stands in spiffe_id")
	}
	return r.Assignment.Check()
}

// validSPIFFEID checks an id by SPIFFE-ID section 2: lower-case trust domain, no empty or relative segments, no port, query or fragment. A path is
// needed, unless bare.
func validSPIFFEID(id string, bare bool) bool {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok || len(id) > MaxSPIFFEID {
		return false
	}
	domain, path, deep := strings.Cut(rest, "/")
	if domain == "" || len(domain) > 255 || strings.ContainsFunc(domain, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_'
	}) {
		return false
	}
	if !deep {
		return bare
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." || strings.ContainsFunc(segment, func(c rune) bool {
			return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_'
		}) {
			return false
		}
	}
	return true
}

// spiffeID gives the SPIFFE ID of a certificate; "" when it is no X.509-SVID.
func spiffeID(c *x509.Certificate) string {
	if len(c.URIs) != 1 || c.IsCA || c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return ""
	}
	if id := c.URIs[0].String(); validSPIFFEID(id, false) {
		return id
	}
	return ""
}

// subject gives the distinguished name in the order and form of RFC 2253; "" when it has none. It is made from what was signed, as x509 keeps no order.
func subject(c *x509.Certificate) string {
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(c.RawSubject, &name); err != nil || len(rest) > 0 {
		return "" // x509 has parsed it already
	}
	return name.String()
}

// names509 is what of a certificate is held against rules.
type names509 struct {
	c               *x509.Certificate
	spiffe, subject string
}

// match gives what the rule has matched, "kind:value"; "" for nothing.
func (r *CertificateRule) match(n *names509) string {
	switch {
	case r.SPIFFEID != "":
		above, below := strings.CutSuffix(r.SPIFFEID, "*")
		if n.spiffe != "" && (n.spiffe == r.SPIFFEID || below && strings.HasPrefix(n.spiffe, above)) {
			return n.spiffe
		}
	case r.Subject != "":
		if n.subject == r.Subject {
			return "subject:" + n.subject
		}
	case r.DNS != "":
		for _, d := range n.c.DNSNames {
			if strings.EqualFold(d, r.DNS) {
				return "dns:" + strings.ToLower(r.DNS)
			}
		}
	case r.Email != "":
		local, domain, _ := strings.Cut(r.Email, "@")
		for _, e := range n.c.EmailAddresses {
			if l, d, ok := strings.Cut(e, "@"); ok && l == local && strings.EqualFold(d, domain) {
				return "email:" + local + "@" + strings.ToLower(domain)
			}
		}
	case r.URI != "":
		for _, u := range n.c.URIs {
			if u.String() == r.URI {
				return "uri:" + r.URI
			}
		}
	}
	return ""
}

// certificateID is the principal's name in the audit log: "cert:" and the SPIFFE ID where it was matched and is not too long, else the SHA-256 of what was
// matched, in hex.
func certificateID(matched string) string {
	const prefix = "cert:"
	if strings.HasPrefix(matched, "spiffe://") && len(prefix)+len(matched) <= MaxPrincipalName {
		return prefix + matched
	}
	h := sha256.Sum256([]byte(matched))
	return prefix + hex.EncodeToString(h[:])
}

// byCertificate finds the principal of a verified chain. It is good until the first certificate of the chain expires.
func (s *Service) byCertificate(ctx context.Context, chain []*x509.Certificate) (*Principal, error) {
	leaf, end := chain[0], earliest(chain)
	h := sha256.New()
	var label [32]byte
	copy(label[:], "keywright/v1/certificate")
	binary.BigEndian.PutUint64(label[24:], uint64(end.Unix())) //nolint:gosec // as bits: another end is another digest
	h.Write(label[:])                                          // never fails (hash.Hash)
	h.Write(leaf.Raw)
	digest := mac(h.Sum(nil))
	if p := s.believed(&digest); p != nil {
		return p, nil
	}
	if leaf.IsCA {
		return nil, errUnauthenticated // who signs certificates is not who calls
	}
	n := &names509{c: leaf, spiffe: spiffeID(leaf), subject: subject(leaf)}
	for i := range s.certificates {
		r := &s.certificates[i]
		if matched := r.match(n); matched != "" {
			return s.settle(ctx, &digest, &r.Assignment, time.Time{}, Principal{ID: certificateID(matched), Kind: KindCertificate, Name: matched, ExpiresAt: end})
		}
	}
	return nil, errUnauthenticated
}
