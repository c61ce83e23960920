package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/netip"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keywright/keywright/audit"
	"github.com/keywright/keywright/envelope"
	"github.com/keywright/keywright/fault"
)

// Login is a sign-in by a browser that is under way: what the browser brings back is held against it. It is kept by the browser alone, sealed.
type Login struct {
	Issuer   string    `json:"issuer"`   // its name in the configuration
	State    string    `json:"state"`    // RFC 6749 section 10.12
	Nonce    string    `json:"nonce"`    // OpenID Connect Core 1.0 section 3.1.2.1
	Verifier string    `json:"verifier"` // RFC 7636 section 4.1
	At       time.Time `json:"at"`
}

// SignIn sends people with a browser to another issuer, and takes the authorization codes that they come back with (OpenID Connect Core 1.0 section 3.1,
// with PKCE by S256, RFC 7636). *oidc.Verifier is the implementation.
type SignIn interface {
	// Issuer gives the name of the issuer that is meant by a name; "" is the only one. fault.BadQuery when there is none.
	Issuer(name string) (string, error)
	// Address gives where the browser goes. fault.Unavailable when the issuer cannot be asked.
	Address(ctx context.Context, l *Login) (string, error)
	// Redeem gives whom a code speaks for. from is the issuer as the browser brought it back (RFC 9207), "" when it did not, and to is the issuer whose
	// address it came back to, by name, "" when that is no one issuer's. What is wrong with a code is fault.Unauthenticated.
	Redeem(ctx context.Context, l *Login, code, from, to string) (*Identity, error)
}

// LoginTime is how long a sign-in may take.
const LoginTime = 10 * time.Minute

// maxLogin bounds what a browser brings back, in bytes.
const maxLogin = 4096

var errLogin = fault.New(fault.Unauthenticated, "the sign-in was not begun by this browser, has taken too long or has been used: begin anew")

// BeginLogin begins a sign-in at an issuer: where the browser goes, and what it keeps, sealed, until it comes back, within LoginTime.
// fault.BadQuery when there is no such issuer; fault.Unavailable.
func (s *Service) BeginLogin(ctx context.Context, issuer string) (address string, kept []byte, err error) {
	if s.signIn == nil {
		return "", nil, fault.New(fault.BadQuery, "no issuer is configured for signing in by a browser")
	}
	l := &Login{State: random256(), Nonce: random256(), Verifier: random256(), At: s.now().UTC()}
	if l.Issuer, err = s.signIn.Issuer(issuer); err != nil {
		return "", nil, err
	}
	if address, err = s.signIn.Address(ctx, l); err != nil {
		return "", nil, err
	}
	kept, err = s.sealLogin(l)
	return address, kept, err
}

// random256 is 256 random bits in 43 characters, as RFC 7636 section 4.1 recommends for a verifier.
func random256() string {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand, since Go 1.24)
	return tokenEncoding.EncodeToString(b[:])
}

// loginBinding binds the sealed text to its use.
var loginBinding = []byte("session-login\x00")

func (s *Service) sealLogin(l *Login) ([]byte, error) {
	generation, err := s.newest()
	if err != nil {
		return nil, err
	}
	key, err := s.deriveAt(LabelLogin, generation)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	text, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encoding a sign-in: %w", err)
	}
	defer clear(text)
	return envelope.SealGeneration(key, generation, text, loginBinding)
}

// openLogin opens what a browser brought back: everything that is wrong with it is errLogin.
func (s *Service) openLogin(kept []byte) (*Login, error) {
	if len(kept) == 0 || len(kept) > maxLogin {
		return nil, errLogin
	}
	sealed, err := envelope.ParseSealed(kept)
	if err != nil {
		return nil, errLogin
	}
	key, err := s.deriveAt(LabelLogin, sealed.Generation)
	if fault.Has(err, fault.KeyMaterial) {
		return nil, errLogin // of a root that is no more, or never was
	}
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	text, err := envelope.OpenGeneration(key, sealed.Generation, kept, loginBinding)
	if err != nil {
		return nil, errLogin
	}
	defer text.Wipe()
	l := new(Login)
	if err := json.Unmarshal(text, l, json.RejectUnknownMembers(true)); err != nil {
		return nil, errLogin
	}
	if age := s.now().Sub(l.At); age < -time.Minute || age >= LoginTime {
		return nil, errLogin
	}
	return l, nil
}

// LoginReturn is a browser that comes back.
type LoginReturn struct {
	Kept    []byte // what BeginLogin gave
	State   string
	Code    string
	Issuer  string     // RFC 9207; "": not sent
	To      string     // the name of the issuer whose own address it comes back to; "": the address of all
	Error   bool       // the issuer has refused
	Session string     // that the browser has already, which ends; "": none
	Address netip.Addr // not valid: nobody knows
	ID      string     // of the request
}

// FinishLogin makes the session of a person who comes back from an issuer. It serves once for each sign-in, on all nodes together. Whatever is wrong
// with the sign-in is fault.Unauthenticated; a person whose tenant is suspended, or who is where it may not be used from, is refused, which is
// recorded. fault.QuotaExceeded, fault.Unavailable.
func (s *Service) FinishLogin(ctx context.Context, r *LoginReturn) (*Session, string, error) {
	if s.signIn == nil {
		return nil, "", errLogin
	}
	l, err := s.openLogin(r.Kept)
	if err != nil {
		return nil, "", err
	}
	if subtle.ConstantTimeCompare([]byte(l.State), []byte(r.State)) != 1 {
		return nil, "", errLogin
	}
	if r.Error || r.Code == "" {
		return nil, "", fault.New(fault.Unauthenticated, "the issuer has not let the person in")
	}
	id, err := s.signIn.Redeem(ctx, l, r.Code, r.Issuer, r.To)
	if err != nil {
		return nil, "", err
	}
	p := id.principal()
	if err := s.assign(ctx, id.Assignment, &p); err != nil {
		return nil, "", err
	}
	x := &Session{Login: sha256.Sum256([]byte("keywright/v1/login\x00" + l.State))}
	if d := Decide(&Request{Principal: &p, Now: s.now(), Door: true, Address: r.Address}); !d.Allowed {
		return nil, "", s.refuseLogin(ctx, &p, &d, r.ID)
	}
	x, presented, err := s.openSession(ctx, &p, x, s.replaced(ctx, &p, r.Session), "by signing in at "+l.Issuer, r.ID)
	if fault.Has(err, fault.Conflict) {
		return nil, "", errLogin
	}
	return x, presented, err
}

// replaced gives the session that a browser has, if it is one of the same tenant that has not ended.
func (s *Service) replaced(ctx context.Context, p *Principal, presented string) *Session {
	key, ok := parseSession(presented)
	clear(key[:])
	if !ok {
		return nil
	}
	m, err := s.sessionPepper.mac(s.derive, presented)
	if err != nil {
		return nil // the new session's own will say so
	}
	x, err := s.store.SessionByMAC(ctx, m)
	if err != nil || x.Tenant != p.Tenant || !x.EndedAt.IsZero() {
		return nil // unknown, or not to be read: it ends by itself
	}
	return x
}

// refuseLogin records that a genuine person was refused at the door.
func (s *Service) refuseLogin(ctx context.Context, p *Principal, d *Decision, requestID string) error {
	e := audit.Entry{Tenant: p.Tenant, Principal: p.ID, Action: ActionSessionCreate, RequestID: requestID}
	return s.denied(ctx, time.Now(), &e, &refusal{error: d.Err(), rule: d.Rule})
}
