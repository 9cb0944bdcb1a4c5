package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/internal/exit"
	"github.com/pitvisor/pitvisor/internal/server"
)

const reloadLong = `Let the supervisor read its configuration again, and change what has changed in it: pools
come and go, sizes change, and workers are replaced, ready ones first, where what they are
started with is another. A file with a mistake changes nothing. HUP does the same, and does
not wait.

It waits until all rollouts have ended; --no-wait only asks for it.
` + askExits

func (a *app) reloadCommand() *cobra.Command {
	w := &waiting{}
	cmd := &cobra.Command{
		Use: "reload", Short: "let the supervisor read its configuration again", Long: reloadLong,
		Example: "  pitvisor check -f shop.toml && pitvisor reload --run shop", Args: takes(0, 0),
	}
	t := a.askCommand(cmd, false)
	cmd.RunE = func(*cobra.Command, []string) error {
		return a.change(t, w, "", func(ctx context.Context, c *api.Client) (*api.Changed, error) {
			return c.Reload(ctx, api.Reload{Wait: !w.no, Timeout: w.timeout})
		})
	}
	w.define(cmd)
	return cmd
}

// reloadAsked is a reload that somebody has asked for over the socket: a mistake in the
// file is theirs to mend.
func (s *session) reloadAsked(ctx context.Context) (server.Reloaded, error) {
	changes, err := s.reload(ctx)
	var coded *exit.Error
	if errors.As(err, &coded) && coded.Code == exitUsage {
		return changes, server.BadRequest(err, exit.Hint(err))
	}
	return changes, err
}
