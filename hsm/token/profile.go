package token

import "strings"

// profile is what is known of a vendor beforehand. It only says what to try first and what to tell the operator: everything that
// is offered is proven by the probing, whatever the profile says.
type profile struct {
	name   string
	match  []string // in manufacturer, model or library, in lower case
	kwp    []uint   // mechanism numbers to try for AES-KWP, before the common ones
	styles []style  // templates to try first
	quirks []string
	// zeroNonce: AES-GCM wants zeros for a nonce and writes its own over them. The probing finds it out too; this saves it a failure.
	zeroNonce bool
	nssDB     bool // private keys that come in need CKA_NSS_DB (CKR_TEMPLATE_INCOMPLETE otherwise)
}

// profiles is read-only. Those of SoftHSM, NSS and opencryptoki are tested; the others follow the documents that are named.
var profiles = []profile{
	{name: "softhsm", match: []string{"softhsm"}, quirks: []string{"answers CKR_GENERAL_ERROR to a ciphertext that was tampered with"}},
	{name: "nss", match: []string{"mozilla", "nss"}, nssDB: true, quirks: []string{"outside FIPS mode it does not enforce CKA_EXTRACTABLE"}},
	{name: "opencryptoki", match: []string{"opencryptoki", "softtok", "ibm"}},
	// Thales, Luna Network HSM 7 documentation, SDK, mechanisms: CKM_AES_KWP is vendor-defined (0x80000171 in Thales's samples), CKM_AES_KW
	// wraps secret keys alone and wants CKA_VALUE_LEN before firmware 7.9.3 (CKM_AES_KW.htm); in FIPS mode CKM_AES_GCM makes IVs of 16 bytes
	// and appends them (CKM_AES_GCM.htm), which is not the form of 12 bytes that is used here.
	{name: "luna", match: []string{"safenet", "thales", "luna", "gemalto"}, kwp: []uint{0x80000171},
		quirks: []string{"has no AES-GCM with nonces of 96 bits while HSM policy 12 keeps it in FIPS mode"}},
	// Entrust, nShield Security World v13.6 PKCS #11 reference: environment variables.
	{name: "nshield", match: []string{"ncipher", "nshield", "entrust"},
		quirks: []string{"shows a process the objects of another only with CKNFAST_ASSUME_SINGLE_PROCESS=0, which several processes or nodes need"}},
	// Utimaco, CryptoServer PKCS#11 R2 Developer Guide (2012-0007): nothing that the probing would not find.
	{name: "utimaco", match: []string{"utimaco"}},
	// AWS CloudHSM User Guide, supported mechanisms (pkcs11-mechanisms.html): AES-GCM takes no IV, wants a buffer of zeros and writes its own of
	// 12 bytes there; RFC 5649 is CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD, 0x8000216F of its pkcs11t.h. Known issues (ki-pkcs11-sdk.html): at most
	// 16 KB in one AES-GCM call.
	{name: "cloudhsm", match: []string{"cavium", "cloudhsm", "amazon"}, kwp: []uint{0x8000216F}, zeroNonce: true,
		quirks: []string{"takes at most 16 KB in one AES-GCM operation"}},
	// Yubico, YubiHSM 2 User Guide: at most 256 objects (core concepts). CKA_ID longer than two bytes lives in an opaque object beside the key
	// since yubihsm-shell 2.4.0, before it was cut off (Yubico/yubihsm-shell issues 335 and 345).
	{name: "yubihsm2", match: []string{"yubico", "yubihsm"},
		quirks: []string{"needs yubihsm_pkcs11 2.4.0 at least and an authentication key that may make and read opaque objects: each key takes two of its 256 objects, or three"}},
}

// profileOf finds the configured profile, or the one that fits what the token says of itself.
func profileOf(name string, d Description) profile {
	text := strings.ToLower(d.Manufacturer + "\x00" + d.Model + "\x00" + d.Library)
	for _, p := range profiles {
		if name != "" {
			if p.name == name {
				return p
			}
			continue
		}
		for _, m := range p.match {
			if strings.Contains(text, m) {
				return p
			}
		}
	}
	return profile{}
}

// mechanismName names a mechanism for people.
func mechanismName(m uint) string {
	switch m {
	case ckmECEdwardsKeyPairGen:
		return "CKM_EC_EDWARDS_KEY_PAIR_GEN"
	case ckmECMontgomeryKeyPairGen:
		return "CKM_EC_MONTGOMERY_KEY_PAIR_GEN"
	case ckmEDDSA:
		return "CKM_EDDSA"
	case ckmMLKEMKeyPairGen:
		return "CKM_ML_KEM_KEY_PAIR_GEN"
	case ckmMLKEM:
		return "CKM_ML_KEM"
	case ckmMLDSAKeyPairGen:
		return "CKM_ML_DSA_KEY_PAIR_GEN"
	case ckmMLDSA:
		return "CKM_ML_DSA"
	case ckmHashMLDSA:
		return "CKM_HASH_ML_DSA"
	case ckmSLHDSAKeyPairGen:
		return "CKM_SLH_DSA_KEY_PAIR_GEN"
	case ckmSLHDSA:
		return "CKM_SLH_DSA"
	case ckmAESKeyWrapKWP:
		return "CKM_AES_KEY_WRAP_KWP"
	}
	for _, n := range mechanismNames {
		if n.number == m {
			return n.name
		}
	}
	return ""
}
