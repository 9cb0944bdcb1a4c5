// Package registry keeps the runs below one root cgroup.
package registry
