package backend

import (
	"context"

	"github.com/keywright/keywright/secret"
)

// Revealer is a backend that can hand the material of a key to this process, for a move to another backend. It does so whether or not the
// key is Exportable: the material does not leave the service, and the caller has asked the policy.
type Revealer interface {
	// Reveal gives the material as Import takes it: raw symmetric bytes, or PKCS#8. The caller wipes it. Material in device custody is
	// fault.NotExportable, of every Ref. It changes nothing and may be repeated.
	Reveal(ctx context.Context, r Ref) (secret.Bytes, error)
}

// Recoverer is a backend with Info().KeepsObjects that can find again what an Import has left which was not recorded.
type Recoverer interface {
	// Recover gives the Ref of the object that is there under the Spec's key and version, as Import would have given it. The caller proves
	// that it is the right key before it relies on it. fault.KeyMaterial when there is none, or one that is not as this backend makes them;
	// fault.Unsupported for a custody that keeps no objects. It destroys nothing, and may be repeated.
	Recover(ctx context.Context, s Spec) (Ref, error)
}
