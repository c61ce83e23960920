package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/keywright/keywright/fault"
)

// Prefixes of the names of principals.
const (
	prefixAPIKey = "api-key:"
	prefixCert   = "cert:"
	prefixToken  = "oidc:"
	prefixPeer   = "peer:"
)

var errPrincipal = fault.New(fault.BadField, "a principal is api-key: and its id, cert: and a SPIFFE ID or subject:, dns:, email: or uri: and the name, oidc: and ISSUER#SUBJECT, or peer: and a user's number")

// PrincipalID reads how people write a principal, and gives its name in the audit log, which is what grants and quorums go by. Beside that name itself,
// where it is a hash, they write what was hashed:
//
//	api-key:<id>
//	cert:spiffe://…, cert:subject:<RFC 2253>, cert:dns:…, cert:email:…, cert:uri:…   what a rule of the configuration matches of a certificate
//	oidc:<issuer>#<subject>                                                          of a token
//	peer:<uid>                                                                       of a process on a Unix socket
//
// fault.BadField for anything else. Whether there is such a principal is not looked at.
func PrincipalID(text string) (string, error) {
	if len(text) > 2*MaxSPIFFEID || text == "" || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", errPrincipal
	}
	switch kind, rest, _ := strings.Cut(text, ":"); kind + ":" {
	case prefixAPIKey:
		if id, err := uuid.Parse(rest); err == nil && len(rest) == 36 && id.String() == rest {
			return text, nil
		}
	case prefixCert:
		if isHash(rest) {
			return text, nil
		}
		if matched := certificateName(rest); matched != "" {
			return certificateID(matched), nil
		}
	case prefixToken:
		if isHash(rest) {
			return text, nil
		}
		// An issuer has no fragment (OpenID Connect Discovery 1.0 section 2).
		if issuer, subject, ok := strings.Cut(rest, "#"); ok && subject != "" && (strings.HasPrefix(issuer, "https://") || strings.HasPrefix(issuer, "http://")) {
			return tokenID(issuer, subject), nil
		}
	case prefixPeer:
		if n, err := strconv.ParseUint(rest, 10, 32); err == nil && strconv.FormatUint(n, 10) == rest && n != overflowID && n != 1<<32-1 {
			return text, nil
		}
	}
	return "", errPrincipal
}

// certificateName gives what a rule matches of a certificate, in the form that the principal's name is made of; "" for what is none.
func certificateName(text string) string {
	kind, rest, _ := strings.Cut(text, ":")
	r := CertificateRule{Assignment: Assignment{Role: RoleViewer}} // for the check of the pattern alone
	switch kind {
	case "spiffe":
		if !validSPIFFEID(text, false) {
			return ""
		}
		return text
	case "subject":
		r.Subject = rest
	case "dns":
		r.DNS, text = rest, "dns:"+strings.ToLower(rest)
	case "email":
		local, domain, _ := strings.Cut(rest, "@")
		r.Email, text = rest, "email:"+local+"@"+strings.ToLower(domain)
	case "uri":
		r.URI = rest
	default:
		return ""
	}
	if r.Check() != nil {
		return ""
	}
	return text
}

func isHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size && hex.EncodeToString(b) == s
}

// tokenID is the name of whom a token speaks for, "oidc:" and the SHA-256 of issuer and subject.
func tokenID(issuer, subject string) string {
	who := sha256.Sum256([]byte(issuer + "\x00" + subject))
	return prefixToken + hex.EncodeToString(who[:])
}

// GrantHolder is under what id the nodes tell each other that a principal's grants have changed: the id of an API key, else a name-based UUID (RFC 9562 section 5.5)
// of tenant and name.
func GrantHolder(tenant uuid.UUID, principal string) (id uuid.UUID, isAPIKey bool) {
	if text, ok := strings.CutPrefix(principal, prefixAPIKey); ok {
		if id, err := uuid.Parse(text); err == nil {
			return id, true
		}
	}
	return uuid.NewSHA1(tenant, []byte(principal)), false
}

// PrincipalNamed gives a principal of the tenant, as a decision would see it, without its presenting anything: for dry runs. Of one that is no API key it
// gives what is granted to it, and what the configuration gives whoever has that one name. known is false when the configuration may give more, or
// less: by what else it presents, such as the claims of a token or a group. Errors: fault.BadField, and fault.APIKeyNotFound, also for one that is
// revoked.
func (s *Service) PrincipalNamed(ctx context.Context, tenant uuid.UUID, text string) (p *Principal, known bool, err error) {
	id, err := PrincipalID(text)
	if err != nil {
		return nil, false, err
	}
	if key, isAPIKey := GrantHolder(tenant, id); isAPIKey {
		p, err = s.Principal(ctx, tenant, key)
		return p, true, err
	}
	t, err := s.store.Tenant(ctx, tenant)
	if err != nil {
		return nil, false, err
	}
	p = &Principal{ID: id, Tenant: tenant, Name: text, TenantName: t.Name, Plan: t.Plan, Suspended: t.Status != TenantActive}
	var a *Assignment
	switch {
	case strings.HasPrefix(id, prefixCert):
		p.Kind = KindCertificate
		a = s.assignedCertificate(certificateName(strings.TrimPrefix(text, prefixCert)))
	case strings.HasPrefix(id, prefixPeer):
		p.Kind = KindPeer
		if uid, err := strconv.ParseUint(strings.TrimPrefix(text, prefixPeer), 10, 32); err == nil {
			a = s.assignedUser(uint32(uid))
		}
	default:
		p.Kind = KindToken
	}
	if a != nil {
		of, err := s.named(ctx, a.Tenant)
		if err != nil && !fault.Has(err, fault.TenantNotFound) {
			return nil, false, err
		}
		if err == nil && of.ID == tenant {
			p.assigned(a)
			known = true
		}
	}
	return p, known, s.granted(ctx, p)
}

// assignedCertificate gives what the configuration gives a certificate that has no name but this one; nil for nothing, and when a rule that comes first looks
// at another kind of name.
func (s *Service) assignedCertificate(matched string) *Assignment {
	kind, rest, _ := strings.Cut(matched, ":")
	for i := range s.certificates {
		r := &s.certificates[i]
		var same bool
		switch {
		case r.SPIFFEID != "" && kind == "spiffe":
			above, below := strings.CutSuffix(r.SPIFFEID, "*")
			same = matched == r.SPIFFEID || below && strings.HasPrefix(matched, above)
		case r.Subject != "" && kind == "subject":
			same = rest == r.Subject
		case r.DNS != "" && kind == "dns":
			same = strings.EqualFold(rest, r.DNS)
		case r.Email != "" && kind == "email":
			same = certificateName("email:"+r.Email) == matched
		case r.URI != "" && kind == "uri":
			same = rest == r.URI
		default:
			return nil
		}
		if same {
			return &r.Assignment
		}
	}
	return nil
}

// assignedUser is the same of a process of a user, whose group is not known.
func (s *Service) assignedUser(uid uint32) *Assignment {
	for i := range s.peers {
		switch r := &s.peers[i]; {
		case r.UID == nil:
			return nil
		case *r.UID == uid:
			return &r.Assignment
		}
	}
	return nil
}

// assigned gives the principal what the configuration says.
func (p *Principal) assigned(a *Assignment) {
	p.Role, p.Scopes = a.Role, (SetOf(a.Role.Scopes()...) | SetOf(a.Scopes...)).List()
	p.rights = rights(p.Scopes)
	if a.Name != "" {
		p.Name = a.Name
	}
}
