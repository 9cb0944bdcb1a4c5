package main

import (
	"context"

	"github.com/pitvisor/pitvisor/internal/userscope"
	"github.com/pitvisor/pitvisor/registry"
)

// enterScope gets an ordinary user a cgroup from systemd, and moves pitvisor there.
func enterScope(name string) error {
	_, err := userscope.Enter(context.Background(), userscope.Options{
		ID: registry.NewRunID().String(), Description: "pitvisor run: " + string(printable([]byte(name))),
	})
	return err
}
