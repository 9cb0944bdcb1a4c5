//go:build 386 || arm || mips || mipsle

package cgroup

// Inode numbers, sizes and times of the kernel are counted in what has 64 bits, here and in
// all that is built on it. A build for another processor ends here, and says why.
var _ = pitvisorNeedsA64BitProcessor
