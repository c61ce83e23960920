package backend

// Readiness says how an algorithm stands against a quantum computer.
type Readiness string

const (
	// ReadinessPostQuantum is a post-quantum algorithm by itself.
	ReadinessPostQuantum Readiness = "post-quantum"
	// ReadinessHybrid is a post-quantum algorithm together with a classical one: whoever breaks one has nothing.
	ReadinessHybrid Readiness = "hybrid"
	// ReadinessSymmetric is a symmetric algorithm, which quantum search weakens and does not break: NIST's categories 1, 3 and 5 are
	// defined by AES-128, AES-192 and AES-256 (NIST IR 8547 section 3.3).
	ReadinessSymmetric Readiness = "symmetric"
	// ReadinessVulnerable is what Shor's algorithm breaks: factoring and discrete logarithms.
	ReadinessVulnerable Readiness = "vulnerable"
)

// Readiness gives the readiness of the algorithm.
func (a AlgorithmInfo) Readiness() Readiness {
	switch {
	case a.Symmetric():
		return ReadinessSymmetric
	case a.Family == FamilyComposite || a.Name == XWing:
		return ReadinessHybrid
	case a.PostQuantum:
		return ReadinessPostQuantum
	}
	return ReadinessVulnerable
}

// Successors gives the post-quantum algorithms that take the place of a vulnerable one for the purpose: the recommended one first, and
// after it the pure or hybrid alternative where there is one. Keys with the strength of P-384 and more go to category 5 (CNSA 2.0). Nil
// for what is not vulnerable.
func (a AlgorithmInfo) Successors(p Purpose) []Algorithm {
	if a.Readiness() != ReadinessVulnerable {
		return nil
	}
	high := a.SecurityBits >= 192
	switch p {
	case PurposeSigning:
		switch {
		case high:
			return []Algorithm{MLDSA87}
		case a.Family == FamilyEdDSA:
			return []Algorithm{MLDSA65, MLDSA65Ed25519}
		}
		return []Algorithm{MLDSA65, MLDSA65P256}
	case PurposeEncryption, PurposeAgreement, PurposeEncapsulation:
		if high {
			return []Algorithm{MLKEM1024}
		}
		return []Algorithm{XWing, MLKEM768}
	}
	return nil
}
