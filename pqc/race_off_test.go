//go:build !race

package pqc

const raceDetector = false
