// Package release knows the version of this program. It is not for the versions of
// formats, which their packages know.
package release

import "runtime/debug"

// release is the version of this source; a build of a tagged module says the
// tag instead.
const release = "0.1.0-dev"

// Version is the version that this program was built as.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return release
}
