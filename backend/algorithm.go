package backend

import "crypto"

// Algorithm is a name as the field writes it. The table in Algorithms is the only one in the program.
type Algorithm string

const (
	AES128GCM        Algorithm = "AES-128-GCM"
	AES192GCM        Algorithm = "AES-192-GCM"
	AES256GCM        Algorithm = "AES-256-GCM"
	ChaCha20Poly1305 Algorithm = "ChaCha20-Poly1305"
	AES256KWP        Algorithm = "AES-256-KWP"

	// AES256CTRHMACSHA256 is for devices that have AES and HMAC and no authenticated mode: encrypt-then-MAC (ISO/IEC 19772:2020 mechanism 5).
	// The key is MAC_KEY (32) ‖ ENC_KEY (32). The ciphertext is AES-256-CTR under ENC_KEY (SP 800-38A section 6.5), the nonce being the first counter block, which is counted up as
	// one number of 128 bits. The tag is HMAC-SHA-256 under MAC_KEY of aad ‖ nonce ‖ ciphertext ‖ length of aad in bits (8, big-endian): the input of RFC 7518
	// section 5.2.2.1 step 5, not truncated.
	AES256CTRHMACSHA256 Algorithm = "AES-256-CTR-HMAC-SHA256"
	HMACSHA256          Algorithm = "HMAC-SHA256"
	HMACSHA384          Algorithm = "HMAC-SHA384"
	HMACSHA512          Algorithm = "HMAC-SHA512"
	RSA2048             Algorithm = "RSA-2048"
	RSA3072             Algorithm = "RSA-3072"
	RSA4096             Algorithm = "RSA-4096"
	ECDSAP256           Algorithm = "ECDSA-P256"
	ECDSAP384           Algorithm = "ECDSA-P384"
	ECDSAP521           Algorithm = "ECDSA-P521"
	Ed25519             Algorithm = "Ed25519"
	Ed448               Algorithm = "Ed448"
	ECDHP256            Algorithm = "ECDH-P256"
	ECDHP384            Algorithm = "ECDH-P384"
	ECDHP521            Algorithm = "ECDH-P521"
	X25519              Algorithm = "X25519"
	X448                Algorithm = "X448"
	MLKEM512            Algorithm = "ML-KEM-512"
	MLKEM768            Algorithm = "ML-KEM-768"
	MLKEM1024           Algorithm = "ML-KEM-1024"
	XWing               Algorithm = "X-Wing"
	DHKEMP256           Algorithm = "DHKEM-P256"
	DHKEMP384           Algorithm = "DHKEM-P384"
	DHKEMP521           Algorithm = "DHKEM-P521"
	DHKEMX25519         Algorithm = "DHKEM-X25519"
	DHKEMX448           Algorithm = "DHKEM-X448"
	MLDSA44             Algorithm = "ML-DSA-44"
	MLDSA65             Algorithm = "ML-DSA-65"
	MLDSA87             Algorithm = "ML-DSA-87"
	SLHDSASHA2128s      Algorithm = "SLH-DSA-SHA2-128s"
	SLHDSASHA2128f      Algorithm = "SLH-DSA-SHA2-128f"
	SLHDSASHA2192s      Algorithm = "SLH-DSA-SHA2-192s"
	SLHDSASHA2192f      Algorithm = "SLH-DSA-SHA2-192f"
	SLHDSASHA2256s      Algorithm = "SLH-DSA-SHA2-256s"
	SLHDSASHA2256f      Algorithm = "SLH-DSA-SHA2-256f"
	SLHDSASHAKE128s     Algorithm = "SLH-DSA-SHAKE-128s"
	SLHDSASHAKE128f     Algorithm = "SLH-DSA-SHAKE-128f"
	SLHDSASHAKE192s     Algorithm = "SLH-DSA-SHAKE-192s"
	SLHDSASHAKE192f     Algorithm = "SLH-DSA-SHAKE-192f"
	SLHDSASHAKE256s     Algorithm = "SLH-DSA-SHAKE-256s"
	SLHDSASHAKE256f     Algorithm = "SLH-DSA-SHAKE-256f"
	MLDSA65P256         Algorithm = "MLDSA65-ECDSA-P256-SHA512"
	MLDSA65Ed25519      Algorithm = "MLDSA65-Ed25519-SHA512"
)

// Purpose is the one use of a key (SP 800-57 part 1, section 5.2: a key has one).
type Purpose string

const (
	PurposeEncryption Purpose = "encryption"
	PurposeWrapping   Purpose = "wrapping"
	PurposeSigning    Purpose = "signing"
	PurposeMAC        Purpose = "mac"
	PurposeAgreement  Purpose = "agreement"
	// PurposeEncapsulation is key establishment by a KEM (SP 800-227), and encryption and wrapping under what it establishes.
	PurposeEncapsulation Purpose = "encapsulation"
)

// Operation is something a key does for a caller: the words of policies, metrics and the audit log.
type Operation string

const (
	OpEncrypt     Operation = "encrypt"
	OpDecrypt     Operation = "decrypt"
	OpRewrap      Operation = "rewrap"
	OpDataKey     Operation = "data-key"
	OpWrap        Operation = "wrap"
	OpUnwrap      Operation = "unwrap"
	OpSign        Operation = "sign"
	OpVerify      Operation = "verify"
	OpMAC         Operation = "mac"
	OpVerifyMAC   Operation = "verify-mac"
	OpDerive      Operation = "derive"
	OpEncapsulate Operation = "encapsulate"
	OpDecapsulate Operation = "decapsulate"
	OpExport      Operation = "export"
	OpAttest      Operation = "attest"
)

// Padding names an RSA signature scheme.
type Padding string

const (
	PaddingPSS      Padding = "pss"
	PaddingPKCS1v15 Padding = "pkcs1v15"
)

// Family groups algorithms that share code.
type Family string

const (
	FamilyAEAD      Family = "aead"
	FamilyKWP       Family = "kwp"
	FamilyHMAC      Family = "hmac"
	FamilyRSA       Family = "rsa"
	FamilyECDSA     Family = "ecdsa"
	FamilyEdDSA     Family = "eddsa"
	FamilyECDH      Family = "ecdh" // NIST curves, X25519 and X448
	FamilyKEM       Family = "kem"  // ML-KEM, X-Wing, and the KEMs of RFC 9180
	FamilyMLDSA     Family = "ml-dsa"
	FamilySLHDSA    Family = "slh-dsa"
	FamilyComposite Family = "composite" // ML-DSA together with a classical signature: both must hold
)

// AlgorithmInfo is one row of the table.
type AlgorithmInfo struct {
	Name         Algorithm
	ID           uint16 // on the wire in envelopes and refs; never reused
	Family       Family
	Purposes     []Purpose   // the first is the default
	KeyBits      int         // size of the secret or modulus or curve
	KeySize      int         // bytes of raw symmetric material; 0 for asymmetric keys
	NonceSize    int         // AEAD, and of the AEAD in a KEM's envelopes, bytes
	TagSize      int         // the same, and HMAC, bytes
	Hash         crypto.Hash // the default hash of signatures, the hash of HMAC
	Standard     string
	PostQuantum  bool
	SecurityBits int // classical strength, SP 800-57 part 1 table 2
	Category     int // NIST's post-quantum security category, 1 to 5; 0: none

	// MaxMessages and MaxBytes are how much one version of a key may protect before it has to be replaced; 0: nothing within reach
	// bounds it. LimitSource says where the bound is from.
	MaxMessages int64
	MaxBytes    int64 // of plaintext
	LimitSource string
}

// The bounds on what one key protects. All are for messages of at most 1 MiB (2^16 blocks), which is what the service takes.
//
// Nonces are 96 random bits with AES-GCM and ChaCha20-Poly1305. SP 800-38D section 8 asks that two of them be equal with a probability of at most
// 2^-32, and section 8.3 therefore allows 2^32 invocations under a key: 2^32 nonces collide with 2^64 / 2^97 = 2^-33. The argument is about the nonce
// alone, so it holds for ChaCha20-Poly1305 (RFC 8439) as it is; that RFC leaves the nonces of several senders to the protocol (section 2.8). The number of
// blocks needs no bound of its own: 2^32 messages are at most 2^48 blocks, by which AES differs from a random function with 2^96 / 2^129 = 2^-33.
//
// AES-256-CTR-HMAC-SHA256 begins each message at a random block of 128 bits. After q messages of s blocks together, two ranges of blocks overlap with
// at most q*s / 2^128, and AES is told from a random function with s^2 / 2^129 (Bellare, Desai, Jokipii, Rogaway, FOCS 1997). Counting a started block
// for each message, 2^47 messages of 2^51 bytes together are 2^48 blocks: 2^-33 for either.
//
// The others have none: AES-KWP uses no nonce (SP 800-38F bounds the length alone), HMAC's is not within reach, RSA-OAEP, KEMs and what is
// encrypted under a KEM have fresh randomness or a fresh key for each message, and signatures do not wear a key out below the 2^64 of SLH-DSA (FIPS 205).
const (
	maxRandomNonces = 1 << 32
	maxCTRMessages  = 1 << 47
	maxCTRBytes     = 1 << 51
)

// Symmetric reports whether the key has no public part.
func (a AlgorithmInfo) Symmetric() bool { return a.KeySize > 0 }

// Allows reports whether a key of this algorithm can have the purpose.
func (a AlgorithmInfo) Allows(p Purpose) bool {
	for _, q := range a.Purposes {
		if q == p {
			return true
		}
	}
	return false
}

func enc(name Algorithm, id uint16, size, bits int, standard, limit string) AlgorithmInfo {
	return AlgorithmInfo{Name: name, ID: id, Family: FamilyAEAD, Purposes: []Purpose{PurposeEncryption}, KeyBits: size * 8,
		KeySize: size, NonceSize: 12, TagSize: 16, Standard: standard, SecurityBits: bits, MaxMessages: maxRandomNonces, LimitSource: limit}
}

func hmac(name Algorithm, id uint16, h crypto.Hash) AlgorithmInfo {
	n := h.Size()
	return AlgorithmInfo{Name: name, ID: id, Family: FamilyHMAC, Purposes: []Purpose{PurposeMAC}, KeyBits: n * 8,
		KeySize: n, TagSize: n, Hash: h, Standard: "RFC 2104, FIPS 198-1", SecurityBits: min(n*8, 256)}
}

func asym(name Algorithm, id uint16, f Family, bits, strength int, h crypto.Hash, standard string, p ...Purpose) AlgorithmInfo {
	return AlgorithmInfo{Name: name, ID: id, Family: f, Purposes: p, KeyBits: bits, Hash: h, Standard: standard, SecurityBits: strength}
}

func kem(name Algorithm, id uint16, bits, strength, category int, standard string) AlgorithmInfo {
	a := asym(name, id, FamilyKEM, bits, strength, 0, standard, PurposeEncapsulation)
	a.NonceSize, a.TagSize, a.Category, a.PostQuantum = 12, 16, category, category > 0
	return a
}

func pqSign(name Algorithm, id uint16, f Family, strength, category int, standard string) AlgorithmInfo {
	a := asym(name, id, f, 0, strength, 0, standard, PurposeSigning)
	a.Category, a.PostQuantum = category, true
	return a
}

// table is read-only. The order is that of the documentation.
var table = []AlgorithmInfo{
	enc(AES128GCM, 0x0001, 16, 128, "SP 800-38D", "SP 800-38D section 8.3"),
	enc(AES192GCM, 0x0002, 24, 192, "SP 800-38D", "SP 800-38D section 8.3"),
	enc(AES256GCM, 0x0003, 32, 256, "SP 800-38D", "SP 800-38D section 8.3"),
	enc(ChaCha20Poly1305, 0x0004, 32, 256, "RFC 8439", "SP 800-38D section 8, of the nonce"),
	{Name: AES256CTRHMACSHA256, ID: 0x0005, Family: FamilyAEAD, Purposes: []Purpose{PurposeEncryption}, KeyBits: 512, KeySize: 64,
		NonceSize: 16, TagSize: 32, Standard: "SP 800-38A, FIPS 198-1, ISO/IEC 19772", SecurityBits: 256,
		MaxMessages: maxCTRMessages, MaxBytes: maxCTRBytes, LimitSource: "birthday bound of CTR, FOCS 1997"},
	{Name: AES256KWP, ID: 0x0010, Family: FamilyKWP, Purposes: []Purpose{PurposeWrapping}, KeyBits: 256, KeySize: 32,
		Standard: "RFC 5649, SP 800-38F", SecurityBits: 256},
	hmac(HMACSHA256, 0x0020, crypto.SHA256),
	hmac(HMACSHA384, 0x0021, crypto.SHA384),
	hmac(HMACSHA512, 0x0022, crypto.SHA512),
	asym(RSA2048, 0x0030, FamilyRSA, 2048, 112, crypto.SHA256, "RFC 8017", PurposeSigning, PurposeEncryption),
	asym(RSA3072, 0x0031, FamilyRSA, 3072, 128, crypto.SHA256, "RFC 8017", PurposeSigning, PurposeEncryption),
	asym(RSA4096, 0x0032, FamilyRSA, 4096, 140, crypto.SHA256, "RFC 8017", PurposeSigning, PurposeEncryption),
	asym(ECDSAP256, 0x0040, FamilyECDSA, 256, 128, crypto.SHA256, "FIPS 186-5", PurposeSigning),
	asym(ECDSAP384, 0x0041, FamilyECDSA, 384, 192, crypto.SHA384, "FIPS 186-5", PurposeSigning),
	asym(ECDSAP521, 0x0042, FamilyECDSA, 521, 256, crypto.SHA512, "FIPS 186-5", PurposeSigning),
	asym(Ed25519, 0x0050, FamilyEdDSA, 255, 128, 0, "RFC 8032", PurposeSigning),
	asym(Ed448, 0x0051, FamilyEdDSA, 448, 224, 0, "RFC 8032", PurposeSigning),
	asym(ECDHP256, 0x0060, FamilyECDH, 256, 128, 0, "SP 800-56A", PurposeAgreement),
	asym(ECDHP384, 0x0061, FamilyECDH, 384, 192, 0, "SP 800-56A", PurposeAgreement),
	asym(ECDHP521, 0x0062, FamilyECDH, 521, 256, 0, "SP 800-56A", PurposeAgreement),
	asym(X25519, 0x0063, FamilyECDH, 255, 128, 0, "RFC 7748", PurposeAgreement),
	asym(X448, 0x0064, FamilyECDH, 448, 224, 0, "RFC 7748", PurposeAgreement),
	kem(MLKEM512, 0x0100, 512, 128, 1, "FIPS 203"),
	kem(MLKEM768, 0x0101, 768, 192, 3, "FIPS 203"),
	kem(MLKEM1024, 0x0102, 1024, 256, 5, "FIPS 203"),
	kem(XWing, 0x0110, 768, 192, 3, "draft-connolly-cfrg-xwing-kem"),
	kem(DHKEMP256, 0x0120, 256, 128, 0, "RFC 9180"),
	kem(DHKEMP384, 0x0121, 384, 192, 0, "RFC 9180"),
	kem(DHKEMP521, 0x0122, 521, 256, 0, "RFC 9180"),
	kem(DHKEMX25519, 0x0123, 255, 128, 0, "RFC 9180"),
	kem(DHKEMX448, 0x0124, 448, 224, 0, "RFC 9180"),
	pqSign(MLDSA44, 0x0200, FamilyMLDSA, 128, 2, "FIPS 204"),
	pqSign(MLDSA65, 0x0201, FamilyMLDSA, 192, 3, "FIPS 204"),
	pqSign(MLDSA87, 0x0202, FamilyMLDSA, 256, 5, "FIPS 204"),
	pqSign(SLHDSASHA2128s, 0x0210, FamilySLHDSA, 128, 1, "FIPS 205"),
	pqSign(SLHDSASHA2128f, 0x0211, FamilySLHDSA, 128, 1, "FIPS 205"),
	pqSign(SLHDSASHA2192s, 0x0212, FamilySLHDSA, 192, 3, "FIPS 205"),
	pqSign(SLHDSASHA2192f, 0x0213, FamilySLHDSA, 192, 3, "FIPS 205"),
	pqSign(SLHDSASHA2256s, 0x0214, FamilySLHDSA, 256, 5, "FIPS 205"),
	pqSign(SLHDSASHA2256f, 0x0215, FamilySLHDSA, 256, 5, "FIPS 205"),
	pqSign(SLHDSASHAKE128s, 0x0216, FamilySLHDSA, 128, 1, "FIPS 205"),
	pqSign(SLHDSASHAKE128f, 0x0217, FamilySLHDSA, 128, 1, "FIPS 205"),
	pqSign(SLHDSASHAKE192s, 0x0218, FamilySLHDSA, 192, 3, "FIPS 205"),
	pqSign(SLHDSASHAKE192f, 0x0219, FamilySLHDSA, 192, 3, "FIPS 205"),
	pqSign(SLHDSASHAKE256s, 0x021a, FamilySLHDSA, 256, 5, "FIPS 205"),
	pqSign(SLHDSASHAKE256f, 0x021b, FamilySLHDSA, 256, 5, "FIPS 205"),
	pqSign(MLDSA65P256, 0x0230, FamilyComposite, 192, 3, "draft-ietf-lamps-pq-composite-sigs"),
	pqSign(MLDSA65Ed25519, 0x0231, FamilyComposite, 192, 3, "draft-ietf-lamps-pq-composite-sigs"),
}

// Algorithms gives a copy of the table.
func Algorithms() []AlgorithmInfo { return append([]AlgorithmInfo(nil), table...) }

// Lookup finds an algorithm by its name, exactly as written.
func Lookup(name Algorithm) (AlgorithmInfo, bool) {
	for i := range table {
		if table[i].Name == name {
			return table[i], true
		}
	}
	return AlgorithmInfo{}, false
}

// LookupID finds an algorithm by its number in envelopes.
func LookupID(id uint16) (AlgorithmInfo, bool) {
	for i := range table {
		if table[i].ID == id {
			return table[i], true
		}
	}
	return AlgorithmInfo{}, false
}

// OperationsOf says what a key of the algorithm and purpose can do for a caller, export aside.
func OperationsOf(a AlgorithmInfo, p Purpose) []Operation {
	switch p {
	case PurposeEncryption:
		return []Operation{OpEncrypt, OpDecrypt, OpRewrap, OpDataKey, OpWrap, OpUnwrap}
	case PurposeWrapping:
		return []Operation{OpWrap, OpUnwrap, OpDataKey}
	case PurposeSigning:
		return []Operation{OpSign, OpVerify}
	case PurposeMAC:
		return []Operation{OpMAC, OpVerifyMAC}
	case PurposeAgreement:
		return []Operation{OpDerive}
	case PurposeEncapsulation:
		return []Operation{OpEncapsulate, OpDecapsulate, OpEncrypt, OpDecrypt, OpRewrap, OpDataKey, OpWrap, OpUnwrap}
	}
	return nil
}
