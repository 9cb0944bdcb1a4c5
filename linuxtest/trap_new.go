//go:build !(amd64 || 386 || ppc64le || s390x)

package linuxtest

// archCalls are the calls that newer architectures do not have.
func archCalls() []trapCall { return nil }
