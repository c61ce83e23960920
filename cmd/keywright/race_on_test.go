//go:build race

package main

// scripts are those that run under the race detector, where each start of the program tests the post-quantum algorithms for
// seconds: the whole of an owner's day, and a store that others share. All run without it.
var scripts = []string{"testdata/script/keys.txtar", "testdata/script/postgres.txtar", "testdata/script/data.txtar"}
