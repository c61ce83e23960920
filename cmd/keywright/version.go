package main

import (
	"runtime"
	"runtime/debug"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version string

// programVersion is the version of this program: the build's, else the module's, else "dev".
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}

type versionCmd struct{}

func (versionCmd) Run(a *app) error {
	v := struct {
		Version  string `json:"version"`
		Go       string `json:"go"`
		Platform string `json:"platform"`
	}{programVersion(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	if a.json() {
		return a.printJSON(v)
	}
	return a.printf("keywright %s (%s, %s)\n", v.Version, v.Go, v.Platform)
}
