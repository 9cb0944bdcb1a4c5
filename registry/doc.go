// Package registry keeps the runs below one root cgroup: it makes and locks them, describes them,
// proves which of them are stale, and sweeps those.
//
// The cgroup tree itself is the registry. A run is a directory of the root:
//
//	<root>/run-<id>/                user.pitvisor.run, user.pitvisor.info; flock = the owner lives;
//	                                user.pitvisor.socket = where it can be asked
//	         <pool>/                user.pitvisor.pool
//	           <slot>.<start>/      user.pitvisor.worker; the processes of one start
//	<root>/supervisor-<id>/         a supervisor's own leaf; flock = it lives
//
// The records are extended attributes: they are gone with their directory, never before it, and a
// directory cannot be removed while a process is in it, so a record outlives its processes.
// user.pitvisor.info holds an Info as JSON and is written first; user.pitvisor.run holds nothing but
// the id and is written last, so its presence, equal to the id in the directory's name, says that the
// record is whole. Only a directory with such a record is ever killed; a sweep first notes in
// user.pitvisor.killed how many processes that ends, for its report or that of a sweep after it.
//
// A run is stale if and only if the lock on its directory is free. The lock is a flock that the owner
// takes before it writes the record and that the kernel frees when the owner is gone. The owner's
// identity in the record is used for one thing only: a child that is stuck between clone and exec
// holds its dead parent's locks too, and such a lock is broken once the owner is proven dead.
//
// The package starts no process, logs nothing and takes no PID as an order. It is not for finding or
// ending processes outside a run, and it does not guess: no time-outs on heartbeats, no command lines.
// What happened in runs is kept by package history.
package registry
