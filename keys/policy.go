package keys

import (
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
)

const (
	minRotation    = time.Hour
	maxRotation    = 10 * 366 * 24 * time.Hour
	maxRequired    = 16 // names in Policy.RequiredContext
	maxContext     = 64 // entries of a caller's context
	uuidForm       = 36 // bytes of the canonical form
	internalPrefix = "~"
)

func alnum(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
}

// wellFormed checks [A-Za-z0-9][A-Za-z0-9<extra>]* of at most limit bytes.
func wellFormed(s, extra string, limit int) bool {
	if s == "" || len(s) > limit || !alnum(s[0]) {
		return false
	}
	for i := 1; i < len(s); i++ {
		if alnum(s[i]) {
			continue
		}
		found := false
		for j := 0; j < len(extra); j++ {
			found = found || extra[j] == s[i]
		}
		if !found {
			return false
		}
	}
	return true
}

// idForm parses the canonical form of a UUID, and no other.
func idForm(s string) (uuid.UUID, bool) {
	if len(s) != uuidForm {
		return uuid.Nil, false
	}
	id, err := uuid.Parse(s)
	return id, err == nil
}

// CheckName reports fault.BadName for what cannot be the name of a key: see MaxName for the form.
func CheckName(name string) error {
	if _, isID := idForm(name); isID || !wellFormed(name, "._/@+-", MaxName) {
		return fault.New(fault.BadName, "a name is 1 to 128 of letters, digits and ._/@+-, begins with a letter or digit, and is not a UUID")
	}
	return nil
}

func checkLabel(name, value string) error {
	if !wellFormed(name, "._/-", MaxLabelKey) {
		return fault.New(fault.BadName, "the name of a label is 1 to 63 of letters, digits and ._/-, and begins with a letter or digit")
	}
	if len(value) > MaxLabel || !utf8.ValidString(value) {
		return fault.New(fault.BadName, "the value of a label is up to 255 bytes of printable UTF-8")
	}
	for _, r := range value {
		if !unicode.IsPrint(r) {
			return fault.New(fault.BadName, "the value of a label is up to 255 bytes of printable UTF-8")
		}
	}
	return nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > MaxLabels {
		return fault.New(fault.BadSize, "a key has at most 64 labels")
	}
	for k, v := range labels {
		if err := checkLabel(k, v); err != nil {
			return err
		}
	}
	return nil
}

// mergeLabels gives old with the changes made; a nil value removes.
func mergeLabels(old map[string]string, changes map[string]*string) map[string]string {
	merged := maps.Clone(old)
	if merged == nil {
		merged = make(map[string]string, len(changes))
	}
	for k, v := range changes {
		if v == nil {
			delete(merged, k)
		} else {
			merged[k] = *v
		}
	}
	return merged
}

// purposeOf settles the purpose of a new key: the one asked for, else the first of the algorithm that has every operation of the
// policy.
func purposeOf(info backend.AlgorithmInfo, asked backend.Purpose, ops []backend.Operation) (backend.Purpose, error) {
	if asked != "" {
		if !info.Allows(asked) {
			return "", fault.New(fault.BadField, "the algorithm does not have this purpose")
		}
		return asked, nil
	}
	want := setOf(ops...)
	for _, p := range info.Purposes {
		if have := setOf(backend.OperationsOf(info, p)...); have&want == want {
			return p, nil
		}
	}
	return "", fault.New(fault.BadField, "no purpose of the algorithm has all operations of the policy")
}

// checkPolicy validates the policy of a key of the algorithm, purpose and origin.
func checkPolicy(p Policy, info backend.AlgorithmInfo, purpose backend.Purpose, o Origin) error {
	have := backend.OperationsOf(info, purpose)
	for i, op := range p.Operations {
		if op == backend.OpExport {
			return fault.New(fault.BadField, "export is allowed by exportable, not by an operation")
		}
		if op == backend.OpAttest {
			return fault.New(fault.BadField, "attestation is of every key: it is no operation to allow")
		}
		if !slices.Contains(have, op) {
			return fault.New(fault.BadField, "the policy has an operation that the key does not have")
		}
		if slices.Contains(p.Operations[:i], op) {
			return fault.New(fault.BadField, "the policy names an operation twice")
		}
	}
	if p.RotationPeriod != 0 && (p.RotationPeriod < minRotation || p.RotationPeriod > maxRotation) {
		return fault.New(fault.BadField, "the rotation period is at least an hour and at most ten years")
	}
	if p.RotationPeriod != 0 && !o.ours() {
		return fault.New(fault.BadField, "only generated keys rotate by themselves")
	}
	if p.Exportable && o == OriginPublicOnly {
		return fault.New(fault.BadField, "a public-only key has nothing to export")
	}
	if p.RequireAttestation && (o != OriginGenerated || p.Exportable) {
		return fault.New(fault.BadField, "attestation can be demanded of generated keys that are not exportable only")
	}
	if p.UsageLimit < 0 {
		return fault.New(fault.BadField, "the usage limit is not negative")
	}
	if p.RotateAfterMessages < 0 || p.RotateAfterBytes < 0 {
		return fault.New(fault.BadField, "the amount after which a key rotates is not negative")
	}
	if (p.RotateAfterMessages != 0 || p.RotateAfterBytes != 0) && o != OriginGenerated {
		return fault.New(fault.BadField, "only generated keys rotate by themselves")
	}
	if err := checkQuorum(p.Quorum); err != nil {
		return err
	}
	if len(p.RequiredContext) > maxRequired {
		return fault.New(fault.BadSize, fmt.Sprintf("a policy requires at most %d names of context", maxRequired))
	}
	if len(p.RequiredContext) > 0 && info.Family == backend.FamilyKWP {
		// RFC 5649 authenticates nothing but the material: a context could be demanded but not bound.
		return fault.New(fault.BadField, "AES-KWP cannot bind a context")
	}
	for i, name := range p.RequiredContext {
		if !wellFormed(name, "._/-", MaxLabelKey) || slices.Contains(p.RequiredContext[:i], name) {
			return fault.New(fault.BadField, "a required context name is malformed or named twice")
		}
	}
	return nil
}

// clone gives a policy that shares nothing with that of the request: records outlive requests.
func (p Policy) clone() Policy {
	p.Operations, p.RequiredContext = slices.Clone(p.Operations), slices.Clone(p.RequiredContext)
	if p.Quorum != nil {
		quorum := *p.Quorum
		quorum.Operations, quorum.Approvers = slices.Clone(quorum.Operations), slices.Clone(quorum.Approvers)
		p.Quorum = &quorum
	}
	return p
}

// checkContext bounds a caller's context.
func checkContext(context map[string]string) error {
	if len(context) > maxContext {
		return fault.New(fault.BadSize, fmt.Sprintf("a context has at most %d entries", maxContext))
	}
	size := 0
	for k, v := range context {
		size += len(k) + len(v)
	}
	if size > MaxAAD {
		return fault.New(fault.BadSize, "the context is too large")
	}
	return nil
}
