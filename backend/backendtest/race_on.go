//go:build race

package backendtest

// RaceDetector says that the curves which the standard library computes in Go, P-384 and P-521, are some ten times slower: then
// a part of their vectors is run, and all of them without the detector. The same goes for the slow sets of SLH-DSA.
const RaceDetector = true
