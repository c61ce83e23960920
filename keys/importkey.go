package keys

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/google/uuid"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

const (
	importAlgorithm = backend.RSA3072
	importWrapping  = "RSA_AES_KEY_WRAP_SHA_256"
	importRenewal   = 24 * time.Hour // a new wrapping key for new parameters
	importLife      = 48 * time.Hour // how long a wrapping key opens imports: no token outlives it
	importTokenSize = 1 + 16 + 4 + 8
	importTokenForm = 1
)

// ImportParameters gives the public key to wrap material to for a backend ("" is the default one). The wrapping key is the tenant's own, made
// on demand, renewed every day, and its private part stays in that backend.
func (s *Service) ImportParameters(ctx context.Context, c Caller, name string) (*ImportParameters, error) {
	return pipeline(ctx, s, c, verbImportParameters, func(ctx context.Context, q *request) (*ImportParameters, error) {
		b, err := s.backendNamed(name)
		if err != nil {
			return nil, err
		}
		if _, ok := b.(backend.Importer); !ok {
			return nil, unsupported()
		}
		if _, ok := b.Info().Can(importAlgorithm); !ok {
			return nil, unsupported()
		}
		q.entry.Resource = "backend:" + b.Info().Name
		r, err := s.wrappingKey(ctx, q, b)
		if err != nil {
			return nil, err
		}
		v, err := s.version(ctx, r, 0)
		if err != nil {
			return nil, err
		}
		q.entry.Key, q.entry.KeyVersion = r.key.ID, v.Version.Version
		p := &ImportParameters{PublicKey: v.Public, Wrapping: importWrapping, Hash: importHash, ExpiresAt: s.stamp().Add(importRenewal).Truncate(time.Second)}
		if last := v.CreatedAt.Add(importLife); p.ExpiresAt.After(last) {
			p.ExpiresAt = last.Truncate(time.Second)
		}
		p.Token = importToken{r.key.ID, v.Version.Version, p.ExpiresAt}.String()
		return p, nil
	}, nil)
}

// wrappingKey gives the tenant's import key of the backend, made or renewed when that is due. One caller of a tenant at a time does that.
func (s *Service) wrappingKey(ctx context.Context, q *request, b backend.Backend) (*record, error) {
	name := internalPrefix + "import/" + b.Info().ID
	unlock, err := s.locks.lock(ctx, uuid.NewSHA1(q.tenant(), []byte(name))) // a name for the lock, nothing more
	if err != nil {
		return nil, err
	}
	defer unlock()
	r, err := s.internal(ctx, q.tenant(), name, importAlgorithm, backend.PurposeEncryption, b, q.caller.RequestID)
	if err != nil {
		return nil, err
	}
	if s.now().Sub(r.key.RotatedAt) < importRenewal {
		return r, nil
	}
	var n nextVersion
	_, err = pipeline(ctx, s, system(q.tenant(), q.caller.RequestID), verbRotate, func(ctx context.Context, q *request) (*Key, error) {
		k, err := q.ownID(ctx, r.key.ID)
		if err != nil {
			return nil, err
		}
		out, err := n.add(ctx, q, k, generate)
		if err != nil {
			return nil, err
		}
		return out, q.expire(ctx, out)
	}, nil)
	if err != nil {
		return nil, err
	}
	return s.recordByID(ctx, q.tenant(), r.key.ID)
}

// expire ends the wrapping key before the last one: it is older than two renewals, so no token can name it any more, and what was wrapped
// to it must not be opened by whoever finds it later.
func (q *request) expire(ctx context.Context, k *Key) error {
	if k.PrimaryVersion < 3 {
		return nil
	}
	old, err := q.s.store.Version(ctx, k.ID, k.PrimaryVersion-2)
	if err != nil || old.State == StateCreating || q.s.now().Before(old.CreatedAt.Add(importLife)) {
		return err
	}
	c, err := q.s.destroyVersion(ctx, k, old, q.s.stamp())
	if c != nil {
		q.changes = append(q.changes, c)
	}
	return err
}

// systemID is who the log says did what the service does by itself.
const systemID = "system"

// system is the service itself as a caller.
func system(tenant uuid.UUID, requestID string) Caller {
	return Caller{Principal: &auth.Principal{ID: systemID, Tenant: tenant, Name: "system", Scopes: auth.Scopes()}, RequestID: requestID}
}

// internal gives a key of the service itself, made on first use. Its name cannot be one of a caller's: those begin with a letter or digit.
func (s *Service) internal(ctx context.Context, tenant uuid.UUID, name string, alg backend.Algorithm, p backend.Purpose, b backend.Backend, requestID string) (*record, error) {
	r, err := s.recordByName(ctx, tenant, name)
	if !fault.Has(err, fault.KeyNotFound) {
		return r, err
	}
	_, err = pipeline(ctx, s, system(tenant, requestID), verbCreate, func(ctx context.Context, q *request) (*Key, error) {
		id, err := s.newID()
		if err != nil {
			return nil, err
		}
		now := s.stamp()
		k := &Key{ID: id, Tenant: tenant, Name: name, Algorithm: alg, Purpose: p, Origin: OriginGenerated, LatestVersion: 1,
			CreatedAt: now, UpdatedAt: now, RotatedAt: now, Internal: true}
		v := &Version{KeyID: id, Version: 1, Origin: OriginGenerated, CreatedAt: now, StateAt: now}
		if err := s.place(k, v, b.Info().Name, ""); err != nil {
			return nil, err
		}
		q.entry.Detail = "internal"
		return q.bear(ctx, k, v, false, generate)
	}, nil)
	if err != nil && !fault.Has(err, fault.NameTaken) { // another node was first
		return nil, err
	}
	return s.recordByName(ctx, tenant, name)
}

// importToken names the wrapping key and version of an import. It is no secret and proves nothing: it can only name internal keys of the
// caller's own tenant, and the age of the version bounds it whatever it says.
type importToken struct {
	key     uuid.UUID
	version uint32
	expires time.Time // whole seconds
}

func (t importToken) String() string {
	b := make([]byte, 0, importTokenSize)
	b = append(append(b, importTokenForm), t.key[:]...)
	b = binary.BigEndian.AppendUint32(b, t.version)
	b = binary.BigEndian.AppendUint64(b, uint64(t.expires.Unix()))
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseImportToken(s string) (importToken, bool) {
	if len(s) != base64.RawURLEncoding.EncodedLen(importTokenSize) {
		return importToken{}, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != importTokenSize || b[0] != importTokenForm {
		return importToken{}, false
	}
	t := importToken{version: binary.BigEndian.Uint32(b[17:21])}
	copy(t.key[:], b[1:17])
	seconds := binary.BigEndian.Uint64(b[21:])
	if seconds > 1<<40 || t.version == 0 {
		return importToken{}, false
	}
	t.expires = time.Unix(int64(seconds), 0).UTC()
	return t, true
}

// importKey finds the wrapping key version that a token names, while it may still be used.
func (q *request) importKey(ctx context.Context, token string) (*version, error) {
	bad := fault.New(fault.BadField, "the import token is malformed, unknown or expired")
	t, ok := parseImportToken(token)
	if !ok || !q.s.now().Before(t.expires) {
		return nil, bad
	}
	r, err := q.s.recordByID(ctx, q.tenant(), t.key)
	if fault.Has(err, fault.KeyNotFound) {
		return nil, bad
	}
	if err != nil {
		return nil, err
	}
	if !r.key.Internal || r.key.Algorithm != importAlgorithm || r.key.Purpose != backend.PurposeEncryption {
		return nil, bad
	}
	v, err := q.s.version(ctx, r, t.version)
	if fault.Has(err, fault.VersionNotFound) {
		return nil, bad
	}
	if err != nil {
		return nil, err
	}
	if !v.allows.has(backend.OpDecrypt) || v.flagged || !q.s.now().Before(v.CreatedAt.Add(importLife)) {
		return nil, bad
	}
	return v, nil
}
