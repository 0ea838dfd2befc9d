package broker

import (
	"runtime/debug"
	"strings"

	"golang.org/x/mod/module"
)

// version is the newest number in CHANGELOG.md, that of the last tag or of the next.
const version = "0.1.0"

// modulePath is Heartline, as go.mod names it.
const modulePath = "github.com/heartline-mqtt/heartline"

// Version returns the version of Heartline that this program contains: the tag it was
// built from, or version. `heartline version` also prints the commit.
func Version() string {
	info, _ := debug.ReadBuildInfo()
	return versionFrom(info)
}

// versionFrom finds the tag in a program's build information: Heartline is its main
// module, or one of its dependencies. info is nil in a program built without modules.
func versionFrom(info *debug.BuildInfo) string {
	if info == nil {
		return version
	}
	for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if m.Path != modulePath {
			continue
		}
		// A pseudo-version stands for a commit without a tag.
		if v, tagged := strings.CutPrefix(m.Version, "v"); tagged && !module.IsPseudoVersion(strings.TrimSuffix(m.Version, "+dirty")) {
			return v
		}
	}
	return version
}
