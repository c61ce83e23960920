// Command pqhelper computes for the fault module what no PKCS#11 module in the test room can: ML-DSA, ML-KEM and two sets of SLH-DSA, by package pqc.
// It trusts its standard input, which is the module's own, and keeps no key: each request brings the seed. It is for tests alone.
//
// A request is a 32-bit length and then: what (1), key type (1), parameter set (1), flags (1), hash (1), size of the context (1), context, size of the seed
// (1), seed, data. An answer is a 32-bit length, a status (1: 0 done, 1 not of this token, 2 refused), and the result. Numbers are big-endian; key
// types and sets are those of PKCS#11 3.2.
//
// Arguments make it a token that is wrong in some way, which a probing has to find: see wrongs.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
)

// What can be asked.
const (
	generate    = 1 // size of the seed (1) ‖ seed ‖ public key
	sign        = 2 // signature of data
	decapsulate = 3 // shared secret of data
	public      = 4 // public key of the seed
	encapsulate = 5 // shared secret (32) ‖ ciphertext, for the public key that data is
	marshal     = 6 // PKCS#8 of the seed
	unmarshal   = 7 // parameter set (1) ‖ seed, of the PKCS#8 that data is, with zeros behind it perhaps; the set of the request is not looked at
)

// Flags of a request.
const deterministic = 1

const maxRequest = 1 << 24

// wrongs are the arguments.
var wrongs = []string{
	"signature",    // signatures do not verify
	"context",      // the context of a signature is not looked at
	"hedge",        // signatures are deterministic, whatever is asked for
	"random",       // signatures are never deterministic, whatever is asked for
	"secret",       // decapsulation gives another secret
	"rejection",    // a ciphertext that was changed is an error
	"public",       // the public key is another key's
	"prehash",      // HashML-DSA is pure ML-DSA of the digest
	"no-signature", // there is no ML-DSA and SLH-DSA
	"no-secret",    // there is no ML-KEM
	"no-wrapping",  // keys are neither wrapped nor unwrapped
}

func main() {
	for _, w := range os.Args[1:] {
		if !slices.Contains(wrongs, w) {
			fmt.Fprintln(os.Stderr, "pqhelper: not an argument:", w)
			os.Exit(2)
		}
	}
	if err := serve(os.Stdin, os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pqhelper:", err)
		os.Exit(1)
	}
}

func serve(in io.Reader, out io.Writer, wrong []string) error {
	r := bufio.NewReader(in)
	h := helper{wrong: wrong}
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err == io.EOF { //nolint:errorlint // the exact value, between requests
			return nil
		} else if err != nil {
			return fmt.Errorf("reading a request: %w", err)
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxRequest {
			return fmt.Errorf("a request of %d bytes", n)
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return fmt.Errorf("reading a request: %w", err)
		}
		answer := h.answer(body)
		if _, err := out.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(answer))), answer...)); err != nil {
			return fmt.Errorf("answering: %w", err)
		}
	}
}
