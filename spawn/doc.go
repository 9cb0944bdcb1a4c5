// Package spawn starts one process inside a fresh cgroup leaf and says how it
// ended.
//
// It is not for keeping processes: it does not restart, keeps no list of
// workers, and does not kill trees; package supervise and package cgroup do.
package spawn
