// Package qpher answers the REST API of Qpher (as its public Go client 0.2.0 speaks it) with the keys of this service: a thin translation
// onto keys.API and no more.
//
// It trusts its caller, package api, to have authenticated the principal, to hold it to the route's scopes and to decode bodies strictly and
// within bounds, and keys.API to hold every rule about keys. It trusts no field of a request. It keeps nothing between calls and is safe for
// concurrent use. What it answers with may hold plaintext: see Answer.Secrets.
//
// The keys of a tenant are one for each algorithm, with reserved names (KeyName); the numbers of its versions are Qpher's key versions, and
// the native API shows the same keys. docs/guides/qpher.md says what else is as Qpher has it, and what is not.
package qpher

import (
	"context"
	"math"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// NamePrefix begins the names of the keys that this API knows.
const NamePrefix = "qpher/"

// Keys is what of keys.API this package needs. *keys.Service is the implementation.
type Keys interface {
	Create(ctx context.Context, c keys.Caller, r keys.CreateRequest) (*keys.Key, error)
	List(ctx context.Context, c keys.Caller, r keys.ListRequest) (page []*keys.Key, next string, err error)
	RotateRetiring(ctx context.Context, c keys.Caller, r keys.RotateRequest) (k *keys.Key, old uint32, err error)
	Retire(ctx context.Context, c keys.Caller, t keys.Target) (*keys.Version, error)
	Versions(ctx context.Context, c keys.Caller, key string, from uint32, limit int) ([]*keys.Version, error)
	Version(ctx context.Context, c keys.Caller, key string, version uint32) (*keys.Version, error)

	Encrypt(ctx context.Context, c keys.Caller, t keys.Target, o keys.EncryptOpts, items []keys.EncryptItem, single bool) ([]keys.BytesResult, error)
	Decrypt(ctx context.Context, c keys.Caller, t keys.Target, o keys.EncryptOpts, items []keys.CiphertextItem, single bool) ([]keys.BytesResult, error)
	WrapKEMDEM(ctx context.Context, c keys.Caller, t keys.Target, items []keys.EncryptItem, single bool) ([]keys.BytesResult, error)
	UnwrapKEMDEM(ctx context.Context, c keys.Caller, t keys.Target, items []keys.CiphertextItem, single bool) ([]keys.BytesResult, error)
	Encapsulate(ctx context.Context, c keys.Caller, t keys.Target, items []keys.EncapsulateItem, single bool) ([]keys.Encapsulation, error)
	Decapsulate(ctx context.Context, c keys.Caller, t keys.Target, items []keys.DecapsulateItem, single bool) ([]keys.BytesResult, error)
	Sign(ctx context.Context, c keys.Caller, t keys.Target, o keys.SignOpts, items []keys.SignItem, single bool) ([]keys.BytesResult, error)
	Verify(ctx context.Context, c keys.Caller, t keys.Target, o keys.SignOpts, items []keys.VerifyItem, single bool) ([]keys.VerifyResult, error)
}

// API is the handlers, one method a route.
type API struct{ keys Keys }

// New makes an API.
func New(k Keys) *API { return &API{k} }

// algorithm is a row of the table of algorithms.
type algorithm struct {
	name   string            // on Qpher's wire
	native backend.Algorithm // here
	key    string            // the reserved name of the tenant's key
}

// algorithms gives the table: those for encryption, then those for signatures, the default first.
func kems() []algorithm {
	return []algorithm{
		{"Kyber768", backend.MLKEM768, NamePrefix + "Kyber768"},
		{"X-Wing", backend.XWing, NamePrefix + "X-Wing"},
	}
}

func signatures() []algorithm {
	return []algorithm{
		{"Dilithium3", backend.MLDSA65, NamePrefix + "Dilithium3"},
		{"Composite-ML-DSA", backend.MLDSA65P256, NamePrefix + "Composite-ML-DSA"},
	}
}

// Algorithms lists the names on the wire.
func Algorithms() []string {
	var out []string
	for _, a := range append(kems(), signatures()...) {
		out = append(out, a.name)
	}
	return out
}

// find gives the row of a name, and of an absent one the first. fault.BadAlgorithm.
func find(name string, among []algorithm) (algorithm, error) {
	if name == "" {
		return among[0], nil
	}
	for _, a := range among {
		if a.name == name {
			return a, nil
		}
	}
	return algorithm{}, fault.New(fault.BadAlgorithm, "the algorithm is unknown, or not one for this request")
}

// required is find for requests that must name one.
func required(name string) (algorithm, error) {
	if name == "" {
		return algorithm{}, missing("algorithm")
	}
	return find(name, append(kems(), signatures()...))
}

func missing(field string) error {
	return fault.New(fault.MissingField, "the field "+field+" is required")
}

// target names the version of the tenant's key. There is no latest version: the number is always required.
func (a algorithm) target(version int64) (keys.Target, error) {
	if version < 1 {
		return keys.Target{}, fault.New(fault.MissingField, "the field key_version is required, a whole number from 1")
	}
	if version > math.MaxUint32 {
		return keys.Target{}, fault.New(fault.VersionNotFound, "the key has no such version")
	}
	return keys.Target{Key: a.key, Version: uint32(version), Algorithm: a.native}, nil
}
