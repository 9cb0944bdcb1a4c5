package api_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/pitvisor/pitvisor/api"
)

// Ask how the workers of a pool are.
func ExampleClient_Status() {
	c := api.NewClient("/run/pitvisor/shop.sock")
	defer c.Close()
	status, err := c.Status(context.Background(), "web")
	if err != nil {
		log.Fatal(err)
	}
	for _, w := range status.Workers {
		fmt.Println(w.Worker, w.State, w.Ready)
	}
}

// Follow events without missing any: from the status on, and again after a stream was
// lost.
func ExampleClient_Events() {
	c := api.NewClient("/run/pitvisor/shop.sock")
	defer c.Close()
	ctx := context.Background()
	status, err := c.Status(ctx)
	if err != nil {
		log.Fatal(err)
	}
	o := api.EventOptions{Cursor: status.Cursor()}
	for again := true; again; {
		again = false
		for e, err := range c.Events(ctx, o) {
			if errors.Is(err, api.ErrStreamLost) {
				again = true
				break
			}
			if err != nil {
				log.Fatal(err)
			}
			fmt.Println(e.Seq, e.Worker, e.Kind)
		}
	}
}

// Wait until a pool is ready.
func ExampleClient_WaitFor() {
	c := api.NewClient("/run/pitvisor/shop.sock")
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := c.WaitFor(ctx, func(s *api.Status) bool {
		return len(s.Pools) == 1 && s.Pools[0].Ready == s.Pools[0].Size
	}, "web")
	if err != nil {
		log.Fatal(err)
	}
}

// Replace the workers of a pool, new ones first.
func ExampleClient_Restart() {
	c := api.NewClient("/run/pitvisor/shop.sock")
	defer c.Close()
	changed, err := c.Restart(context.Background(), api.Selected{Select: []string{"web"}, Wait: true})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range changed.Rollouts {
		if r.Error != "" {
			log.Fatalf("pool %s: %s", r.Pool, r.Error)
		}
	}
}
