//go:build race

package api

// raceDetector is on: the detector makes everything several times slower.
const raceDetector = true
