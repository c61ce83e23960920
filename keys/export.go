package keys

import (
	"context"
	"crypto"
	"crypto/rsa"

	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
)

const (
	minExportRSA = 2048 // bits
	maxExportRSA = 4096
)

// Export gives the material of a version (0: the primary one), wrapped to an RSA key that the caller names, if the policy allows it and
// did so when the version was made. Only active versions are exported.
func (s *Service) Export(ctx context.Context, c Caller, r ExportRequest) ([]byte, Used, error) {
	type exported struct {
		wrapped []byte
		used    Used
	}
	e, err := pipeline(ctx, s, c, verbExport, func(ctx context.Context, q *request) (exported, error) {
		if (r.To == "") == (len(r.Public) == 0) {
			return exported{}, fault.New(fault.MissingField, "exactly one of a key of the tenant and a public key is needed")
		}
		hash := r.Hash
		if hash == 0 {
			hash = crypto.SHA256
		}
		if !keyenc.OAEPHash(hash) {
			return exported{}, fault.New(fault.BadField, "the hash is SHA-1, SHA-256, SHA-384 or SHA-512")
		}
		b := &batch{s: s, verb: verbExport, op: backend.OpExport, target: Target{Key: r.Key, Version: r.Version}}
		defer b.close()
		rec, err := q.find(ctx, r.Key)
		if err != nil {
			return exported{}, err
		}
		b.record, q.entry.Key = rec, rec.key.ID
		if !rec.key.Policy.Exportable {
			return exported{}, fault.New(fault.NotExportable, "the policy of the key does not allow its export")
		}
		if p := rec.key.Policy; p.UsageLimit > 0 && rec.key.Uses >= p.UsageLimit {
			return exported{}, fault.New(fault.UsageLimit, "the usage limit of the key is reached")
		}
		u, err := b.use(ctx, r.Version, backend.OpExport)
		if err != nil {
			return exported{}, b.refreshed(ctx, err)
		}
		q.entry.KeyVersion = u.version.Version.Version
		to, err := s.exportTo(ctx, q, r)
		if err != nil {
			return exported{}, err
		}
		if err := q.countDaily(1); err != nil {
			return exported{}, err
		}
		start := s.now()
		wrapped, err := u.export(ctx, b, to, hash)
		failed := 0
		if err != nil {
			failed = 1
		}
		s.metrics.observe(rec, verbExport, s.now().Sub(start), 1, failed, fault.CodeOf(err))
		if err != nil {
			return exported{}, err
		}
		if limit := rec.key.Policy.UsageLimit; limit > 0 {
			q.change(rec.key.ID, s.store.AddUses(rec.key.ID, 1, limit))
		}
		return exported{wrapped, u.used(b)}, nil
	}, func(e exported) { clear(e.wrapped) })
	return e.wrapped, e.used, err
}

func (u *use) export(ctx context.Context, b *batch, to *rsa.PublicKey, hash crypto.Hash) ([]byte, error) {
	if !u.version.Exportable {
		return nil, fault.New(fault.NotExportable, "the version was made without leave to export it")
	}
	key, err := u.load(ctx, b)
	if err != nil {
		return nil, err
	}
	e, ok := key.(backend.Exporter)
	if !ok {
		return nil, unsupported()
	}
	return e.Export(ctx, to, hash)
}

// exportTo gives the RSA key to wrap to: a key of the tenant that may encrypt, or one that the caller brings.
func (s *Service) exportTo(ctx context.Context, q *request, r ExportRequest) (*rsa.PublicKey, error) {
	der := r.Public
	if r.To != "" {
		rec, err := s.find(ctx, q.tenant(), r.To)
		if err == nil {
			ask := q.askFor(verbGet) // whose scope, or that of the export, tells of it
			ask.Any, ask.Key = ask.Any|auth.SetOf(actions[verbExport].scope), rec.facts
			if d := auth.Decide(&ask); !d.Allowed {
				err = keyNotFound()
			}
		}
		if err != nil {
			return nil, err
		}
		v, err := s.version(ctx, rec, 0)
		if err != nil {
			return nil, err
		}
		if rec.info.Family != backend.FamilyRSA || !rec.capable.has(backend.OpEncrypt) {
			return nil, fault.New(fault.BadAlgorithm, "keys are exported to RSA keys for encryption only")
		}
		if ops, _ := allowed(rec.key.stateAt(v.State, s.now())); !ops.has(backend.OpEncrypt) {
			return nil, stateDenied()
		}
		der = v.Public
		q.entry.Resource = "key:" + rec.key.ID.String()
	}
	if len(der) > maxImport {
		return nil, fault.New(fault.BadSize, "a public key is at most 16 KiB")
	}
	pub, err := keyenc.ParseSPKI(der)
	if err != nil {
		return nil, fault.New(fault.BadEncoding, "the public key is not a well-formed SPKI")
	}
	k, ok := pub.(*rsa.PublicKey)
	if !ok || k.N.BitLen() < minExportRSA || k.N.BitLen() > maxExportRSA || k.E <= 1<<16 {
		return nil, fault.New(fault.BadAlgorithm, "keys are exported to RSA keys of 2048 to 4096 bits only")
	}
	return k, nil
}
