package api

import (
	"reflect"

	"github.com/keywright/keywright/api/qpher"
	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/attest"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/keys"
)

// choices gives the values that a field can have, from the tables that decide it.
func choices(in reflect.Type, name string) []string {
	if in.PkgPath() == qpherPath {
		return qpher.Choices(in.Name(), name)
	}
	switch name {
	case "role":
		out := make([]string, 0, len(auth.Roles()))
		for _, r := range auth.Roles() {
			out = append(out, string(r.Role))
		}
		return out
	case "status":
		return []string{string(auth.TenantActive), string(auth.TenantSuspended)}
	case "algorithm":
		if in == reflect.TypeFor[wire.CreateKey]() || in == reflect.TypeFor[wire.ImportKey]() {
			var out []string
			for _, a := range backend.Algorithms() {
				out = append(out, string(a.Name))
			}
			return out
		}
	case "custody":
		if in != reflect.TypeFor[wire.Backend]() { // which has a list of them
			return []string{string(backend.CustodyDevice), string(backend.CustodySealed), string(backend.CustodySoftware)}
		}
	case "state":
		if in == reflect.TypeFor[wire.BackendMember]() {
			return []string{"missing", "joining", "refused", "healthy", "unavailable"}
		}
		if in == reflect.TypeFor[wire.Job]() {
			return []string{"queued", "running", "done", "failed", "cancelled"}
		}
		if in == reflect.TypeFor[wire.Approval]() {
			return []string{"pending", "approved", "rejected", "expired", "used"}
		}
		if in != reflect.TypeFor[wire.Backend]() {
			var out []string
			for _, s := range []keys.State{keys.StatePreActive, keys.StatePendingImport, keys.StateActive, keys.StateDeactivated,
				keys.StateSuspended, keys.StateCompromised, keys.StatePendingDeletion, keys.StateDestroyed} {
				out = append(out, string(s))
			}
			return out
		}
	case "hash":
		if in == reflect.TypeFor[wire.Sign]() || in == reflect.TypeFor[wire.Verify]() {
			return []string{"SHA-256", "SHA-384", "SHA-512"}
		}
		return []string{"SHA-1", "SHA-256", "SHA-384", "SHA-512"}
	case "format":
		if in == reflect.TypeFor[wire.PublicKey]() {
			return []string{"pem", "raw"}
		}
		if in == reflect.TypeFor[wire.Attestation]() || in == reflect.TypeFor[wire.Evidence]() {
			return []string{attest.Format}
		}
		return []string{"envelope", "raw", "hpke", "kem-dem"}
	case "padding":
		return []string{string(backend.PaddingPSS), string(backend.PaddingPKCS1v15)}
	case "new_keys":
		return []string{newKeysAny, string(keys.NewKeysPostQuantum), string(keys.NewKeysHybrid)}
	case "readiness":
		return []string{string(backend.ReadinessVulnerable), string(backend.ReadinessSymmetric), string(backend.ReadinessPostQuantum), string(backend.ReadinessHybrid)}
	case "brand":
		return auth.Brands()
	case "encoding":
		return []string{"der", "p1363"}
	case "assurance":
		return []string{string(attest.AssuranceDevice), string(attest.AssuranceStatement)}
	case "kind":
		switch in {
		case reflect.TypeFor[wire.Evidence]():
			return []string{attest.KindTPM, attest.KindPKCS11, attest.KindNone}
		case reflect.TypeFor[wire.AttestedDevice](), reflect.TypeFor[wire.Backend]():
		default:
			return []string{"passphrase", "key-file", "shamir"}
		}
	}
	return nil
}

func meaningOfJob(name string) string {
	switch name {
	case "state":
		return "done: all was tried, and failed says how much did not succeed"
	case "kind":
		return "what it does: move, rotation, deletion, …"
	case "deployment":
		return "whether it is the deployment's and not a tenant's"
	case "params":
		return "what it was asked, by kind"
	case "done":
		return "how much is done"
	case "failed":
		return "how much has failed for good"
	case "total":
		return "how much there is; absent when it is not known"
	case "failures":
		return "what failed, the first 100"
	case "resource":
		return "key:<id>, or key:<id>/<version>"
	case "error":
		return "why it failed or, while it is queued, why the last attempt did"
	case "attempts":
		return "attempts in a row that failed"
	case "retry_at":
		return "when it is tried again"
	case "node":
		return "the node that runs it, or ended it"
	case "created_by":
		return "the principal who asked for it; system when it was the schedule"
	case "started_at":
		return "when it first began"
	case "updated_at":
		return "when its progress was last written"
	case "ended_at":
		return "when it ended"
	}
	return ""
}
