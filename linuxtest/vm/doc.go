// Package vm runs programs, above all Go test binaries, as root on real kernels:
// Debian's, in QEMU, with every cgroup v2 controller and no KVM needed.
//
//	func main() {
//		vm.Main() // the guest side of the same binary; returns on the host
//		...
//		kernel, err := cache.Kernel(ctx, "6.12")
//		result, err := vm.Machine{Kernel: kernel, Programs: programs}.Run(ctx)
//	}
//
// The binary that calls [Machine.Run] is also /init of the guest, so it must be
// static, and its main must begin with [Main]. The command pitvisor-linuxtest is
// such a binary; most projects need nothing but that.
//
// Kernels and a small Debian root are downloaded by apt, checked by apt's hashes
// and kept in a cache. Nothing of the host's apt is changed. Nothing outlives the
// program that started it: not QEMU, not a disk image, whatever ends it.
//
// The package is not for machines that live on, nor for anything but tests: the
// guest runs everything as root and trusts what it is given.
package vm
