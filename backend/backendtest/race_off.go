//go:build !race

package backendtest

// RaceDetector: see race_on.go.
const RaceDetector = false
