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
	nssDB  bool // private keys that come in need CKA_NSS_DB (CKR_TEMPLATE_INCOMPLETE otherwise)
}

// profiles is read-only. Those of SoftHSM, NSS and opencryptoki are tested; the others follow the vendors' documents.
var profiles = []profile{
	{name: "softhsm", match: []string{"softhsm"}, quirks: []string{"answers CKR_GENERAL_ERROR to a ciphertext that was tampered with"}},
	{name: "nss", match: []string{"mozilla", "nss"}, nssDB: true, quirks: []string{"outside FIPS mode it does not enforce CKA_EXTRACTABLE"}},
	{name: "opencryptoki", match: []string{"opencryptoki", "softtok", "ibm"}},
	// CKM_AES_KWP of SafeNet's cryptoki_v2.h.
	{name: "luna", match: []string{"safenet", "thales", "luna", "gemalto"}, kwp: []uint{0x80000171}},
	// nShield refuses a key that may do everything and one that says no to everything; Cloud and Edge have few sessions.
	{name: "nshield", match: []string{"ncipher", "nshield", "entrust"}, styles: []style{omitFalse}},
	{name: "utimaco", match: []string{"utimaco"}},
	// AWS's IV in AES-GCM is the device's own; its KWP has a number of its own (CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD and _PKCS5_PAD
	// are others).
	{name: "cloudhsm", match: []string{"cavium", "cloudhsm", "amazon"}, quirks: []string{"makes the nonces of AES-GCM itself"}},
	{name: "yubihsm2", match: []string{"yubico", "yubihsm"}, styles: []style{omitFalse, omitFalse | omitExtractable}},
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
