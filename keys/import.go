package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"

	"github.com/cloudflare/circl/sign/ed448"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
)

// maxImport bounds wrapped material and public keys: the PKCS#8 of RSA-4096 is below 2.5 kB.
const maxImport = 16 << 10

// Import brings material from elsewhere: into a new key, into one that waits for it, or as the new version of an imported key. A public
// key makes a key that verifies and encrypts only. With an idempotency token the same request gives the same version.
func (s *Service) Import(ctx context.Context, c Caller, r ImportRequest) (*Key, error) {
	var n nextVersion
	return pipeline(ctx, s, c, verbImport, func(ctx context.Context, q *request) (*Key, error) {
		if n.begun == nil {
			if k, err := q.replay(ctx); k != nil || err != nil {
				return k, err
			}
		}
		if (len(r.Wrapped) == 0) == (len(r.Public) == 0) || (len(r.Public) > 0) == (r.Token != "") {
			return nil, fault.New(fault.MissingField, "exactly one of wrapped key, with its import token, and public key is needed")
		}
		if (r.Key == "") == (r.Create.Name == "" && r.Create.Algorithm == "") {
			return nil, fault.New(fault.MissingField, "either an existing key or name and algorithm of a new one are needed")
		}
		if len(r.Wrapped) > maxImport || len(r.Public) > maxImport {
			return nil, fault.New(fault.BadSize, "imported material is at most 16 KiB")
		}
		if len(r.Public) > 0 {
			return q.importPublic(ctx, &n, r)
		}
		return q.importWrapped(ctx, &n, r)
	}, nil)
}

func (q *request) importPublic(ctx context.Context, n *nextVersion, r ImportRequest) (*Key, error) {
	take := func(alg backend.Algorithm) (backend.Ref, error) {
		info, _ := backend.Lookup(alg) // draft or the store has looked
		return backend.Ref{Public: r.Public}, checkPublic(&info, r.Public)
	}
	if r.Key != "" {
		k, err := q.own(ctx, r.Key)
		if err != nil {
			return nil, err
		}
		if k.Origin != OriginPublicOnly {
			return nil, fault.New(fault.OperationNotAllowed, "the key is not a public-only one")
		}
		return n.add(ctx, q, k, func(context.Context, backend.Backend, backend.Spec) (backend.Ref, error) { return take(k.Algorithm) })
	}
	if r.Create.Origin != "" && r.Create.Origin != OriginPublicOnly {
		return nil, fault.New(fault.BadField, "a public key makes a public-only key")
	}
	r.Create.Origin = OriginPublicOnly
	k, v, err := q.draft(ctx, r.Create)
	if err != nil {
		return nil, err
	}
	ref, err := take(k.Algorithm)
	if err != nil {
		return nil, err
	}
	v.take(k, ref)
	k.activate(v)
	return q.insert(k, v, r.Create.Default, 1), nil
}

// checkPublic refuses an SPKI that is not a public key of the algorithm, or of an algorithm that does nothing with public keys alone.
func checkPublic(info *backend.AlgorithmInfo, der []byte) error {
	pub, err := keyenc.ParseSPKI(der)
	if err != nil {
		return fault.New(fault.BadImport, "the public key is not a well-formed SPKI")
	}
	ok := false
	switch k := pub.(type) {
	case *rsa.PublicKey:
		// FIPS 186-5 section A.1.1: an odd exponent above 2^16.
		ok = info.Family == backend.FamilyRSA && k.N.BitLen() == info.KeyBits && k.E > 1<<16 && k.E&1 == 1
	case *ecdsa.PublicKey:
		ok = info.Family == backend.FamilyECDSA && k.Curve.Params().BitSize == info.KeyBits
	case ed25519.PublicKey:
		ok = info.Name == backend.Ed25519
	case ed448.PublicKey:
		ok = info.Name == backend.Ed448
	case *pqc.PublicKey:
		ok = k.Algorithm().Name() == string(info.Name)
	}
	if !ok {
		return fault.New(fault.BadImport, "the public key is not one of the named algorithm, or has no use alone")
	}
	return nil
}

func (q *request) importWrapped(ctx context.Context, n *nextVersion, r ImportRequest) (*Key, error) {
	with, err := q.importKey(ctx, r.Token)
	if err != nil {
		return nil, err
	}
	open := func(ctx context.Context, b backend.Backend, spec backend.Spec) (backend.Ref, error) {
		i, ok := b.(backend.Importer)
		if !ok {
			return backend.Ref{}, unsupported()
		}
		return i.ImportWrapped(ctx, spec, with.ref, importHash, r.Wrapped)
	}
	if r.Key != "" {
		k, err := q.own(ctx, r.Key)
		if err != nil {
			return nil, err
		}
		switch {
		case k.Origin != OriginImported:
			return nil, fault.New(fault.OperationNotAllowed, "the key was not made for import")
		case k.BackendID != with.BackendID:
			return nil, otherBackend()
		}
		latest, err := q.s.store.Version(ctx, k.ID, k.LatestVersion)
		if err != nil {
			return nil, err
		}
		if k.State == StatePendingImport && latest.State == StatePendingImport {
			return q.fill(ctx, k, latest, open)
		}
		return n.add(ctx, q, k, open)
	}
	if r.Create.Origin != "" && r.Create.Origin != OriginImported {
		return nil, fault.New(fault.BadField, "wrapped material makes an imported key")
	}
	r.Create.Origin = OriginImported
	k, v, err := q.draft(ctx, r.Create)
	if err != nil {
		return nil, err
	}
	if k.BackendID != with.BackendID {
		return nil, otherBackend()
	}
	return q.bear(ctx, k, v, r.Create.Default, open)
}

func otherBackend() error {
	return fault.New(fault.BadField, "the import token is for another backend")
}

// fill gives a version that waits for it its material.
func (q *request) fill(ctx context.Context, k *Key, v *Version, open maker) (*Key, error) {
	s := q.s
	b := s.byID[v.BackendID]
	if b == nil {
		return nil, s.notHere(v.BackendID)
	}
	q.entry.KeyVersion = v.Version
	token := q.token(k.ID, v.Version)
	if b.Info().KeepsObjects {
		k.State, v.State, v.PriorState = StateCreating, StateCreating, StatePendingImport
		v.StateAt = s.stamp()
		if err := q.step(ctx, q.entry.Action+".begin", k.ID, v.Version, append(token, s.store.UpdateVersion(v), s.store.UpdateKey(k))...); err != nil {
			return nil, err
		}
		token, q.final = nil, true
		k.Revision++
		v.Revision++
	}
	ref, err := open(ctx, b, specOf(k, v.Version, v.Custody, v.Exportable))
	if err != nil {
		if q.final {
			q.abandon(ctx, k, v)
		}
		return nil, err
	}
	v.PriorState, v.StateAt = "", s.stamp()
	v.take(k, ref)
	k.activate(v)
	q.change(k.ID, append(token, s.store.UpdateVersion(v), s.store.UpdateKey(k))...)
	return k.stored(), nil
}

const importHash = crypto.SHA256
