package backendtest

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"reflect"
	"slices"
	"testing"

	"github.com/cloudflare/circl/sign/ed448"
	"github.com/google/uuid"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keyenc"
	"github.com/keywright/keywright/pqc"
)

func (s *suite) testInfo(t *testing.T) {
	i := s.info
	if !slices.Contains([]string{"software", "hsm", "tpm"}, i.Kind) {
		t.Errorf("Kind %q", i.Kind)
	}
	if i.Name != "conformance" {
		t.Errorf("Name %q, opened as conformance", i.Name)
	}
	if i.ID == "" || i.ID == i.Name {
		t.Errorf("ID %q: it must be the device's own, not the configured name", i.ID)
	}
	if len(i.Custody) == 0 || len(i.Capabilities) == 0 {
		t.Fatalf("a backend without custody or capabilities: %+v", i)
	}
	if !reflect.DeepEqual(i, s.b.Info()) {
		t.Error("Info changed between two calls")
	}
	seen := map[backend.Algorithm]bool{}
	for _, c := range i.Capabilities {
		a, ok := backend.Lookup(c.Algorithm)
		if !ok {
			t.Errorf("capability for %q, which is not in the table", c.Algorithm)
			continue
		}
		if seen[c.Algorithm] {
			t.Errorf("%s is listed twice", c.Algorithm)
		}
		seen[c.Algorithm] = true
		if !slices.Contains(i.Custody, c.Custody) {
			t.Errorf("%s: custody %q is not among the backend's", c.Algorithm, c.Custody)
		}
		if len(c.Operations) == 0 {
			t.Errorf("%s can do nothing", c.Algorithm)
		}
		allowed := []backend.Operation{backend.OpExport}
		if c.Custody == backend.CustodyDevice {
			allowed = append(allowed, backend.OpAttest)
		}
		for _, p := range a.Purposes {
			allowed = append(allowed, backend.OperationsOf(a, p)...)
		}
		for _, op := range c.Operations {
			if !slices.Contains(allowed, op) {
				t.Errorf("%s: operation %q is not one of the algorithm", c.Algorithm, op)
			}
		}
	}
	s.testRequired(t)
}

// testRequired keeps a capability from getting lost.
func (s *suite) testRequired(t *testing.T) {
	need := s.h.Requires
	for _, a := range need.Algorithms {
		c, ok := s.info.Can(a)
		switch {
		case !ok:
			t.Errorf("%s is required and not advertised", a)
		case need.Import && !c.Import:
			t.Errorf("%s: import is required and not advertised", a)
		case need.Export && !slices.Contains(c.Operations, backend.OpExport):
			t.Errorf("%s: export is required and not advertised", a)
		case need.Attest && !slices.Contains(c.Operations, backend.OpAttest):
			t.Errorf("%s: attestation is required and not advertised", a)
		}
	}
	for _, c := range []struct {
		name string
		need bool
		is   bool
	}{
		{"Importer", need.Import, is[backend.Importer](s.b)},
		{"Sealer", need.Sealer, is[backend.Sealer](s.b)},
		{"Randomer", need.Randomer, is[backend.Randomer](s.b)},
		{"Pinger", need.Pinger, is[backend.Pinger](s.b)},
	} {
		if c.need && !c.is {
			t.Errorf("the backend is required to be a %s and is none", c.name)
		}
	}
}

func is[I any](v any) bool { _, ok := v.(I); return ok }

// testUnsupported asks for everything that is not advertised.
func (s *suite) testUnsupported(t *testing.T) {
	refuse := func(what string, spec backend.Spec, material []byte) {
		t.Helper()
		spec.Tenant, spec.KeyID, spec.Version = s.tenant, uuid.New(), 1
		_, err := s.b.Generate(t.Context(), spec)
		want(t, "Generate "+what, err, fault.Unsupported)
		if imp, ok := s.b.(backend.Importer); ok && material != nil {
			_, err := imp.Import(t.Context(), spec, material)
			want(t, "Import "+what, err, fault.Unsupported)
		}
	}
	kinds := s.every()
	purposes := []backend.Purpose{
		backend.PurposeEncryption, backend.PurposeWrapping, backend.PurposeSigning, backend.PurposeMAC,
		backend.PurposeAgreement, backend.PurposeEncapsulation, "", "everything",
	}
	for _, a := range backend.Algorithms() {
		material := fresh(t, a).bytes
		for _, p := range purposes {
			if slices.ContainsFunc(kinds, func(k kind) bool { return k.Algorithm == a.Name && k.Purpose == p }) {
				continue
			}
			refuse(string(a.Name)+" for purpose "+string(p), backend.Spec{Algorithm: a.Name, Purpose: p}, material)
		}
	}
	for _, name := range []backend.Algorithm{"", "AES-512-GCM", "aes-256-gcm", "AES-256-GCM ", "RSA-1024"} {
		refuse("algorithm "+string(name), backend.Spec{Algorithm: name, Purpose: backend.PurposeEncryption}, make([]byte, 32))
	}
	for _, k := range kinds {
		material := fresh(t, k.Info).bytes
		if imp, ok := s.b.(backend.Importer); ok && !k.Import {
			_, err := imp.Import(t.Context(), s.spec(k), material)
			want(t, "Import "+string(k.Algorithm), err, fault.Unsupported)
		}
		for _, custody := range []backend.Custody{backend.CustodyDevice, backend.CustodySealed, backend.CustodySoftware, "safe"} {
			if !slices.Contains(s.info.Custody, custody) {
				refuse(string(k.Algorithm)+" in custody "+string(custody),
					backend.Spec{Algorithm: k.Algorithm, Purpose: k.Purpose, Custody: custody}, material)
			}
		}
		if !k.has(backend.OpExport) {
			refuse(string(k.Algorithm)+" exportable",
				backend.Spec{Algorithm: k.Algorithm, Purpose: k.Purpose, Exportable: true}, material)
		}
	}
}

// testHandles makes a key of each kind and looks at what comes back.
func (s *suite) testHandles(t *testing.T) {
	for _, k := range s.kinds() {
		t.Run(k.String(), func(t *testing.T) {
			ref := s.ref(t, k)
			spec := ref.Spec
			if spec.Custody != k.Custody {
				t.Errorf("Ref's custody %q, the capability says %q", spec.Custody, k.Custody)
			}
			if asked := s.spec(k); spec.Algorithm != asked.Algorithm || spec.Purpose != asked.Purpose || spec.Tenant != asked.Tenant ||
				spec.Version != asked.Version || spec.Exportable {
				t.Errorf("Ref's spec %+v is not the one asked for", spec)
			}
			if len(ref.Blob) == 0 {
				t.Error("empty blob")
			}
			key := load(t, s.b, ref)
			checkInterfaces(t, k, key, false)
			checkPublic(t, k, key, ref)
			if err := key.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if err := key.Close(); err != nil {
				t.Errorf("second Close: %v", err)
			}
		})
	}
}

// checkInterfaces wants exactly the interfaces of the capability.
func checkInterfaces(t testing.TB, k kind, key backend.Key, exportable bool) {
	t.Helper()
	f := k.Info.Family
	for _, c := range []struct {
		name string
		want bool
		is   bool
	}{
		{"AEAD", f == backend.FamilyAEAD && (k.has(backend.OpEncrypt) || k.has(backend.OpDecrypt)), is[backend.AEAD](key)},
		{"Decrypter", f == backend.FamilyRSA && k.has(backend.OpDecrypt), is[backend.Decrypter](key)},
		{"Signer", k.has(backend.OpSign), is[backend.Signer](key)},
		{"MACer", k.has(backend.OpMAC), is[backend.MACer](key)},
		{"Agreer", k.has(backend.OpDerive), is[backend.Agreer](key)},
		{"Decapsulator", k.has(backend.OpDecapsulate), is[backend.Decapsulator](key)},
		{"Wrapper", f == backend.FamilyKWP && (k.has(backend.OpWrap) || k.has(backend.OpUnwrap)), is[backend.Wrapper](key)},
		{"Exporter", exportable && k.has(backend.OpExport), is[backend.Exporter](key)},
		{"Attester", k.has(backend.OpAttest), is[backend.Attester](key)},
	} {
		if c.want != c.is {
			t.Errorf("%s for %s: handle is a %s: %v, want %v", k.Algorithm, k.Purpose, c.name, c.is, c.want)
		}
	}
}

// checkPublic wants a public key of the algorithm's type, the same in handle and Ref.
func checkPublic(t testing.TB, k kind, key backend.Key, ref backend.Ref) {
	t.Helper()
	pub := key.Public()
	if k.Info.Symmetric() {
		if pub != nil || ref.Public != nil {
			t.Errorf("a symmetric key with a public part: handle %T, Ref %d bytes", pub, len(ref.Public))
		}
		return
	}
	if !bytes.Equal(spki(t, pub), ref.Public) {
		t.Errorf("the public key of the handle (%T) is not the Ref's", pub)
	}
	fits := false
	switch p := pub.(type) {
	case *rsa.PublicKey:
		fits = k.Info.Family == backend.FamilyRSA && p.N.BitLen() == k.Info.KeyBits && p.E == 65537
	case *ecdsa.PublicKey:
		fits = k.Info.Family == backend.FamilyECDSA && p.Curve == curves[k.Algorithm]
	case ed25519.PublicKey:
		fits = k.Algorithm == backend.Ed25519
	case ed448.PublicKey:
		fits = k.Algorithm == backend.Ed448
	case *ecdh.PublicKey:
		fits = k.Info.Family == backend.FamilyECDH && p.Curve() == dhCurves[k.Algorithm]
	case keyenc.X448PublicKey:
		fits = k.Algorithm == backend.X448
	}
	switch k.Info.Family {
	case backend.FamilyKEM:
		fits = isKEMPublic(k.Info, pub)
	case backend.FamilyMLDSA, backend.FamilySLHDSA, backend.FamilyComposite:
		p, ok := pub.(*pqc.PublicKey)
		fits = ok && p.Algorithm().Name() == string(k.Algorithm)
	}
	if !fits {
		t.Errorf("%s: public key %T does not fit", k.Algorithm, pub)
	}
}
