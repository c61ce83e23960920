//go:build race

package pqc

// raceDetector says that computing is some ten times slower: then a part of the slow vectors is run, and more without the detector.
const raceDetector = true
