package linuxtest

// archCalls are the calls that newer architectures do not have.
func archCalls() []trapCall { return nil }
