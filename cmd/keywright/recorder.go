package main

import "github.com/keywright/keywright/audit"

// recorder is what the operations on keys are recorded by: the audit log, always. No configuration, flag or build tag says otherwise. It stands in a
// file of its own because one program is built with another in its place: the one that `make bench-audit` measures the log's cost against, by
// -overlay, from bench/unaudited, which is no part of any package.
func recorder(l *audit.Log) audit.Recorder { return l }
