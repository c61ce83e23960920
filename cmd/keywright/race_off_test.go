//go:build !race

package main

// scripts empty: all of the folder.
var scripts []string
