// Package release knows the version of this program. It is not for the versions of
// formats, which their packages know.
package release

// version is that of this source. A release is built with
// -ldflags "-X github.com/pitvisor/pitvisor/internal/release.version=1.2.3".
var version = "0.1.0-dev"

// Version is the version that this program was built as.
func Version() string { return version }
