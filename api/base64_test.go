package api

import (
	"errors"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// TestBase64IsStrict: only the alphabet and the padding are taken, whatever the decoder would skip.
func TestBase64IsStrict(t *testing.T) {
	for text, want := range map[string]string{
		`"AAEC"`: "\x00\x01\x02", `""`: "", `"AAE="`: "\x00\x01",
		`"AA\nEC"`: "!", `"AA\r\nEC"`: "!", `"AAEC\n"`: "!", `"\n"`: "!", `"\u0041AEC"`: "!", `"AA\/C"`: "!", "\"AA\nEC\"": "!", "\"AAEC\r\"": "!",
		`"AAE"`: "!", `"AAF="`: "!", `"AA-_"`: "!", `"AAEC "`: "!", `"AAE=A"`: "!",
	} {
		var a arena
		got, err := a.base64(jsontext.Value(text))
		if want == "!" {
			if !errors.Is(err, errEncoding) {
				t.Errorf("%q is taken as %q, %v", text, got, err)
			}
		} else if err != nil || string(got) != want {
			t.Errorf("%q is taken as %q, %v", text, got, err)
		}
	}
}
