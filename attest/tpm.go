package attest

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// maxObjects and maxPCRs bound what is looked at.
const (
	maxObjects      = 2
	maxPCRs         = 4 * 32
	maxCertificates = 8
)

// shape is what the object of a role must be for an algorithm of the service.
type shape struct {
	role   string
	kind   tpm2.TPMAlgID
	bits   int // of an RSA modulus or AES key
	curve  elliptic.Curve
	hash   crypto.Hash // of an HMAC
	sign   bool
	decode bool // the object's attribute "decrypt"
}

// shapes gives the objects of which a key of the algorithm is made in a TPM, or none when there is no such key.
func shapes(algorithm, purpose string) []shape {
	signing := purpose == "signing"
	switch algorithm {
	case "RSA-2048":
		return []shape{{role: RoleKey, kind: tpm2.TPMAlgRSA, bits: 2048, sign: signing, decode: !signing}}
	case "RSA-3072":
		return []shape{{role: RoleKey, kind: tpm2.TPMAlgRSA, bits: 3072, sign: signing, decode: !signing}}
	case "RSA-4096":
		return []shape{{role: RoleKey, kind: tpm2.TPMAlgRSA, bits: 4096, sign: signing, decode: !signing}}
	case "ECDSA-P256", "ECDH-P256":
		return curveShape(elliptic.P256(), signing)
	case "ECDSA-P384", "ECDH-P384":
		return curveShape(elliptic.P384(), signing)
	case "ECDSA-P521", "ECDH-P521":
		return curveShape(elliptic.P521(), signing)
	case "HMAC-SHA256":
		return []shape{{role: RoleKey, kind: tpm2.TPMAlgKeyedHash, hash: crypto.SHA256, sign: true}}
	case "HMAC-SHA384":
		return []shape{{role: RoleKey, kind: tpm2.TPMAlgKeyedHash, hash: crypto.SHA384, sign: true}}
	case "HMAC-SHA512":
		return []shape{{role: RoleKey, kind: tpm2.TPMAlgKeyedHash, hash: crypto.SHA512, sign: true}}
	case "AES-256-CTR-HMAC-SHA256":
		// Of a symmetric cipher sign means encrypt (TPM 2.0 part 2 section 8.3.3).
		return []shape{{role: RoleCipher, kind: tpm2.TPMAlgSymCipher, bits: 256, sign: true, decode: true},
			{role: RoleMAC, kind: tpm2.TPMAlgKeyedHash, hash: crypto.SHA256, sign: true}}
	}
	return nil
}

func curveShape(c elliptic.Curve, signing bool) []shape {
	return []shape{{role: RoleKey, kind: tpm2.TPMAlgECC, curve: c, sign: signing, decode: !signing}}
}

// fits compares an object with the shape that it must have.
func (s *shape) fits(o *object) bool {
	a := o.ObjectAttributes
	if o.Type != s.kind || a.SignEncrypt != s.sign || a.Decrypt != s.decode || a.Restricted {
		return false
	}
	switch s.kind {
	case tpm2.TPMAlgRSA:
		p, err := o.Parameters.RSADetail()
		return err == nil && int(p.KeyBits) == s.bits
	case tpm2.TPMAlgECC:
		k, ok := o.key.(interface{ Params() *elliptic.CurveParams })
		return ok && k.Params() == s.curve.Params()
	case tpm2.TPMAlgSymCipher:
		p, err := o.Parameters.SymDetail()
		if err != nil || p.Sym.Algorithm != tpm2.TPMAlgAES {
			return false
		}
		bits, err := p.Sym.KeyBits.AES()
		return err == nil && int(*bits) == s.bits
	case tpm2.TPMAlgKeyedHash:
		p, err := o.Parameters.KeyedHashDetail()
		if err != nil || p.Scheme.Scheme != tpm2.TPMAlgHMAC {
			return false
		}
		h, err := p.Scheme.Details.HMAC()
		return err == nil && sameHash(h.HashAlg, s.hash)
	}
	return false
}

// tpm derives the claims of TPM evidence.
func (c *Claims) tpm(t *TPM, st *Statement, binding []byte, o *Options) error {
	if st.Custody != "device" || st.Backend.Kind != "tpm" || st.Exportable {
		return refuse("the statement contradicts the evidence: it is of a key in a TPM")
	}
	if len(t.Objects) > maxObjects || len(t.Quote.PCRs) > maxPCRs || len(t.EKCertificates) > maxCertificates {
		return refuse("the evidence has too many parts")
	}
	ak, err := attestationKey(t.AK)
	if err != nil {
		return err
	}
	c.Assurance = AssuranceDevice
	c.Device.DeviceIdentity, c.Device.AttestationKeyName = IdentityUnproven, hexed(ak.name)
	if len(o.AttestationKey) > 0 {
		if subtle.ConstantTimeCompare(o.AttestationKey, ak.name) != 1 {
			return refuse("the attestation key is another than the expected one")
		}
		c.Device.DeviceIdentity = IdentityPinned
	}
	var boot *tpm2.TPMSAttest
	same := func(a *tpm2.TPMSAttest) error {
		if boot == nil {
			boot = a
		}
		// An attestation key of the endorsement hierarchy sees these in clear (TPM 2.0 part 1 section 36.7).
		if a.ClockInfo.ResetCount != boot.ClockInfo.ResetCount || a.ClockInfo.RestartCount != boot.ClockInfo.RestartCount ||
			a.FirmwareVersion != boot.FirmwareVersion {
			return refuse("the parts of the evidence are of different boots")
		}
		return nil
	}
	if err := c.objects(t, st, ak, binding, same); err != nil {
		return err
	}
	if err := c.quote(&t.Quote, ak, binding, same, o); err != nil {
		return err
	}
	c.Device.ResetCount, c.Device.RestartCount = boot.ClockInfo.ResetCount, boot.ClockInfo.RestartCount
	v := boot.FirmwareVersion
	c.Device.Firmware = fmt.Sprintf("%d.%d.%d.%d", v>>48, v>>32&0xffff, v>>16&0xffff, v&0xffff)
	c.Device.Manufacturer, c.Device.Model = t.Manufacturer, t.Model
	return c.endorsement(t, o)
}

func (c *Claims) objects(t *TPM, st *Statement, ak *signing, binding []byte, same func(*tpm2.TPMSAttest) error) error {
	want := shapes(st.Algorithm, st.Purpose)
	if len(want) == 0 || len(t.Objects) != len(want) {
		return refuse("the evidence is not of a key of the stated algorithm")
	}
	policy, err := ObjectPolicy(st)
	if err != nil {
		return err
	}
	c.GeneratedOnDevice, c.Exportable = true, false
	for i := range want {
		e := &t.Objects[i]
		o, err := parsePublic(e.Public, "public area of the key")
		if err != nil {
			return err
		}
		if e.Role != want[i].role || !want[i].fits(o) {
			return refuse("the evidence is not of a key of the stated algorithm and purpose")
		}
		if !bytes.Equal(o.AuthPolicy.Buffer, policy) {
			return refuse("the object was made for another key version")
		}
		a, err := ak.attested(e.Attest, e.Signature, binding, tpm2.TPMSTAttestCertify, "certification of the key")
		if err != nil {
			return err
		}
		info, err := a.Attested.Certify()
		if err != nil {
			return refuse("the certification of the key is malformed")
		}
		if !bytes.Equal(info.Name.Buffer, o.name) {
			return refuse("the certification is of another key")
		}
		if err := same(a); err != nil {
			return err
		}
		c.GeneratedOnDevice = c.GeneratedOnDevice && o.generated()
		c.Exportable = c.Exportable || !o.fixed()
		c.Device.ObjectNames = append(c.Device.ObjectNames, hexed(o.name))
		if o.key != nil {
			der, err := x509.MarshalPKIXPublicKey(o.key)
			if err != nil {
				return refuse("the public area of the key is malformed")
			}
			c.PublicKey = der
		}
	}
	if !bytes.Equal(c.PublicKey, st.PublicKey) {
		return refuse("the statement contradicts the evidence: the public key is another")
	}
	if c.GeneratedOnDevice != (st.Origin == "generated") {
		return refuse("the statement contradicts the evidence: the origin of the key is another")
	}
	return nil
}

// bank is a PCR bank by the name of its hash.
func bank(alg tpm2.TPMIAlgHash) (name string, size int) {
	switch alg {
	case tpm2.TPMAlgSHA1:
		return "sha1", 20
	case tpm2.TPMAlgSHA256:
		return "sha256", 32
	case tpm2.TPMAlgSHA384:
		return "sha384", 48
	case tpm2.TPMAlgSHA512:
		return "sha512", 64
	}
	return "", 0
}

// quote checks that the values are those of which the TPM signed the digest (TPM 2.0 part 3 section 18.4).
func (c *Claims) quote(q *Quote, ak *signing, binding []byte, same func(*tpm2.TPMSAttest) error, o *Options) error {
	a, err := ak.attested(q.Attest, q.Signature, binding, tpm2.TPMSTAttestQuote, "quote")
	if err != nil {
		return err
	}
	if err := same(a); err != nil {
		return err
	}
	info, err := a.Attested.Quote()
	if err != nil {
		return refuse("the quote is malformed")
	}
	if !selected(info, q.PCRs, ak.digest) {
		return refuse("the PCR values are not those of the quote")
	}
	for _, want := range o.PCRs {
		i := slices.IndexFunc(q.PCRs, func(p PCR) bool { return p.Bank == want.Bank && p.Index == want.Index })
		if i < 0 {
			return refuse("PCR %s:%d is not in the quote", want.Bank, want.Index)
		}
		if !bytes.Equal(q.PCRs[i].Value, want.Value) {
			return refuse("PCR %s:%d has another value than the expected one", want.Bank, want.Index)
		}
	}
	c.PCRs = q.PCRs
	return nil
}

// selected reports whether the values are those of which the quote has the digest, in number and order those of its selection.
func selected(info *tpm2.TPMSQuoteInfo, values []PCR, h crypto.Hash) bool {
	if len(values) == 0 {
		return false
	}
	digest := h.New()
	for _, s := range info.PCRSelect.PCRSelections {
		name, size := bank(s.Hash)
		for i := range 8 * len(s.PCRSelect) {
			if s.PCRSelect[i/8]>>(i%8)&1 == 0 {
				continue
			}
			if len(values) == 0 || name == "" || values[0].Bank != name || values[0].Index != i || len(values[0].Value) != size {
				return false
			}
			digest.Write(values[0].Value)
			values = values[1:]
		}
	}
	return len(values) == 0 && bytes.Equal(digest.Sum(nil), info.PCRDigest.Buffer)
}

// Whole reports whether the PCR values are those that were quoted, by an attestation key with this hash. Between reading and quoting the
// system may extend a register: whoever makes evidence does both again then.
func (q *Quote) Whole(h crypto.Hash) bool {
	a, err := parsed[tpm2.TPMSAttest](q.Attest, "quote")
	if err != nil {
		return false
	}
	info, err := a.Attested.Quote()
	return err == nil && selected(info, q.PCRs, h)
}

// ekUsage is tcg-kp-EKCertificate; the others are the attributes of a TPM in the subject alternative name (TCG EK Credential Profile 2.5
// sections 3.1.2 and 3.2.16).
var (
	ekUsage            = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	subjectAlternative = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// endorsement reads the endorsement key and its certificates.
func (c *Claims) endorsement(t *TPM, o *Options) error {
	c.Device.EKCertificate = CertificateAbsent
	if len(t.EK) > 0 {
		ek, err := parsePublic(t.EK, "endorsement key")
		if err != nil {
			return err
		}
		a := ek.ObjectAttributes
		if !a.Restricted || !a.Decrypt || a.SignEncrypt || !ek.generated() || ek.key == nil {
			return refuse("the endorsement key is not a restricted decryption key made by its TPM")
		}
		// Of the public area nothing but the key itself is certified, so that nothing else of it is claimed.
		der, err := x509.MarshalPKIXPublicKey(ek.key)
		if err != nil {
			return refuse("the endorsement key is malformed")
		}
		c.Device.EndorsementKey = hexed(sum(crypto.SHA256, der))
		if len(t.EKCertificates) > 0 {
			return c.certificates(t.EKCertificates, ek, o)
		}
	} else if len(t.EKCertificates) > 0 {
		return refuse("there is a certificate without the endorsement key")
	}
	if o.EKRoots != nil {
		return refuse("the TPM has no certificate of its endorsement key")
	}
	return nil
}

func (c *Claims) certificates(ders [][]byte, ek *object, o *Options) error {
	var chain []*x509.Certificate
	for _, der := range ders {
		if len(der) > maxPart {
			return refuse("a certificate is too large")
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return refuse("a certificate is malformed")
		}
		chain = append(chain, cert)
	}
	leaf := chain[0]
	if k, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(ek.key) {
		return refuse("the certificate is of another endorsement key")
	}
	if leaf.IsCA || len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0 && !slices.ContainsFunc(leaf.UnknownExtKeyUsage, ekUsage.Equal) {
		return refuse("the certificate is not one of an endorsement key")
	}
	c.Device.EKCertificate = CertificateUnverified
	if o.EKRoots == nil {
		return nil
	}
	// The alternative name holds a directory name, which the library leaves unread; where the subject is empty it is critical.
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(leaf.UnhandledCriticalExtensions, subjectAlternative.Equal)
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	now := o.Now
	if now.IsZero() {
		now = time.Now()
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: o.EKRoots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return refuse("the certificate of the endorsement key does not chain to the given roots")
	}
	c.Device.EKCertificate = CertificateVerified
	return nil
}
