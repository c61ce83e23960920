package deploy_test

import (
	"debug/elf"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestWhatTheImageNeeds: the program needs the C library and nothing else of the image, and the build stage makes it as everybody does.
func TestWhatTheImageNeeds(t *testing.T) {
	f, err := elf.Open(binary(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	ofTheBase := []string{"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "libresolv.so.2", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
	for _, l := range libraries {
		if !slices.Contains(ofTheBase, l) {
			t.Errorf("it needs %s, which the image does not have", l)
		}
	}
	text, err := os.ReadFile("container/Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"RUN make build VERSION=\"${VERSION}\"", "USER 10001:10001", "COPY --from=build /src/bin/keywright /usr/bin/keywright"} {
		if !strings.Contains(string(text), "\n"+line+"\n") {
			t.Errorf("the Containerfile lacks %s", line)
		}
	}
	// The Go of the image is the one that go.mod asks for.
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(mod))
	got := regexp.MustCompile(`golang:(\d+\.\d+)-`).FindStringSubmatch(string(text))
	if want == nil || got == nil || want[1] != got[1] {
		t.Errorf("the image builds with Go %v, go.mod asks for %v", got, want)
	}
	// What is not sent to the builder is not needed by it.
	ignored, err := os.ReadFile("container/Containerfile.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"deploy", "cmd", "api", "docs"} {
		if slices.Contains(strings.Fields(string(ignored)), name) {
			t.Errorf("%s is needed for the build", name)
		}
	}
}
