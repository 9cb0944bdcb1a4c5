// Package confine runs programs, above all Go test binaries, on this host's own
// kernel where less is allowed than to root outside: in containers of several
// kinds, without any container engine, and as an ordinary user in a delegated
// cgroup.
//
//	func main() {
//		confine.Main() // this binary is the container's init as well
//		...
//		c := confine.Container{Cgroup: confine.CgroupReadOnly, Capabilities: confine.DockerCapabilities()}
//		result, err := c.Run(ctx, confine.Program{Args: []string{"/bin/ls", "/sys/fs/cgroup"}}, os.Stdout)
//	}
//
// A container is what Docker, Podman and Kubernetes give a program: namespaces, a
// root that it may change and nobody else sees, a small /dev, fewer capabilities,
// and system calls that a filter refuses. What can be chosen is what matters to a
// program that starts and ends others: how cgroup2 is seen, what is refused, and who
// is PID 1. The command pitvisor-linuxtest does this for whole packages of tests, and
// linuxtest.InContainer for one process of a test.
//
// It needs root. Nothing outlives the program that started it, but for what an
// ordinary user was given: that is removed by the next one.
//
// The package is not for programs that are not trusted: what it takes away is taken
// away to see what tests do without it.
package confine
