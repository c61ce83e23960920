package backendtest

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// TestReferenceKWP: a judge has to be judged itself, by the examples of RFC 5649 section 6 and by Wycheproof.
func TestReferenceKWP(t *testing.T) {
	for _, v := range [][3]string{
		{"5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8", "c37b7e6492584340bed12207808941155068f738", "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a"},
		{"5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8", "466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"},
	} {
		var b [3][]byte
		for i := range v {
			var err error
			if b[i], err = hex.DecodeString(v[i]); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := kwpWrap(b[0], b[1]); err != nil || !bytes.Equal(got, b[2]) {
			t.Errorf("wrap: %x, %v", got, err)
		}
	}
	ran := 0
	for _, g := range Vectors(t, "aes_kwp") {
		for _, v := range g.Tests {
			ran++
			got, err := kwpUnwrap(v.Key, v.CT)
			if (err == nil) != (v.Result == "valid") || (err == nil && !bytes.Equal(got, v.Msg)) {
				t.Errorf("vector %d (%s): unwrap %v", v.ID, v.Comment, err)
			}
			if v.Result != "valid" {
				continue
			}
			if got, err := kwpWrap(v.Key, v.Msg); err != nil || !bytes.Equal(got, v.CT) {
				t.Errorf("vector %d (%s): wrap %v", v.ID, v.Comment, err)
			}
		}
	}
	if ran < 250 {
		t.Errorf("only %d vectors", ran)
	}
	malformed, err := kwpMalformed(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	for what, wrapped := range malformed {
		if _, err := kwpUnwrap(make([]byte, 32), wrapped); err == nil {
			t.Errorf("%s: unwraps", what)
		}
	}
}
