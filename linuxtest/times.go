package linuxtest

import "testing"

// Times is how often a test does something: short times with -test.short, as on
// an emulated processor, else full times.
func Times(full, short int) int {
	if testing.Short() {
		return short
	}
	return full
}
