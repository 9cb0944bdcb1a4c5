// Package api is the client of a running supervisor (`pitvisor up`), and the types
// that travel on its socket.
//
// A [Client] asks one supervisor, and so one run. Every call takes a context and
// can be made from several goroutines at once. What went wrong at the other side
// is an *[Error], with its cause and its cure.
//
//	c := api.NewClient("/run/pitvisor/shop.sock")
//	defer c.Close()
//	status, err := c.Status(ctx)
//
// The routes are described in docs/api.md and, for programs, in docs/openapi.json.
// Fields may be added to the types; none is renamed or removed within one version
// of the path ("/v1").
//
// The package uses the standard library only. It is not for finding supervisors
// (the command line tool looks through the cgroup tree for that), it starts nothing
// and it retries nothing.
package api
