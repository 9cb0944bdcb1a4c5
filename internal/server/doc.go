// Package server is the socket of a running supervisor: HTTP and JSON in, calls of
// the supervisor out. One table says which routes there are and who may use them
// (routes.go); the types on the wire are those of package api.
//
// Who calls is known from the kernel: by SO_PEERCRED, and for workers by the cgroup
// of the very process that connected, held by SO_PEERPIDFD. Events are kept in a
// bounded ring that every reader walks at its own pace, so that none of them can
// hold up the supervisor, nor each other.
//
// The package does not decide anything about workers, which is for package supervise,
// and costs nothing while nobody calls.
package server
