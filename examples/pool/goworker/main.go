// Command goworker is a small HTTP server that reports to its supervisor by
// sd_notify. It is an example of a worker, not a part of pitvisor.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "goworker:", err)
		os.Exit(1)
	}
}

func run() error {
	// First of all, so that a TERM during start-up is not lost.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	fmt.Println("listening on", l.Addr())

	// Without a supervisor that wants to know, this does nothing.
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return fmt.Errorf("tell that we are ready: %w", err)
	}

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	// Requests in flight get two seconds to end.
	grace, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return errors.Join(server.Shutdown(grace), ignoreClosed(<-served))
}

func answer(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, "%s, process %d\n", os.Getenv("PITVISOR_WORKER"), os.Getpid())
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
