package server

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/api"
)

func listen(t *testing.T, path string) *Socket {
	t.Helper()
	s, err := Listen(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	s := listen(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != socketMode || info.Mode().Type() != fs.ModeSocket {
		t.Errorf("socket is %v, %v", info, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if exists(path) || exists(path+lockSuffix) {
		t.Error("the socket or its lock was left behind")
	}
}

// TestStaleSocketIsReplaced: what a crash leaves is no obstacle.
func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	if err := os.WriteFile(path+lockSuffix, nil, 0o600); err != nil || !exists(path) {
		t.Fatal(err)
	}
	if err := listen(t, path).Close(); err != nil {
		t.Error(err)
	}
}

// TestLivingSocketIsRefused: by its lock, and without it by its answering.
func TestLivingSocketIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	s := listen(t, path)
	defer s.Close()
	for _, what := range []string{"locked", "lock cleaned away"} {
		_, err := Listen(context.Background(), path)
		var taken *TakenError
		if !errors.As(err, &taken) || taken.PID != os.Getpid() || taken.Hint() == "" {
			t.Errorf("%s: %v, want it taken by process %d", what, err, os.Getpid())
		}
		_ = os.Remove(path + lockSuffix)
	}
	if c, err := net.Dial("unix", path); err != nil {
		t.Errorf("the one that lives does not answer any more: %v", err)
	} else {
		_ = c.Close()
	}
}

// TestNoSocketIsRefused: a file of somebody is not removed.
func TestNoSocketIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(context.Background(), path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("listen on a file = %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "precious" {
		t.Errorf("the file is %q, %v", data, err)
	}
}

// TestLongPath: longer than sun_path, for both sides.
func TestLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100), strings.Repeat("e", 100))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "api.sock")
	s := listen(t, path)
	b := New(Options{})
	served := make(chan error, 1)
	go func() { served <- b.Serve(s) }()
	c := api.NewClient(path)
	if who, err := c.Whoami(context.Background()); err != nil || who.Role != roleOwner {
		t.Errorf("whoami = %+v, %v", who, err)
	}
	c.Close()
	b.Shutdown(context.Background())
	<-served
	if exists(path) {
		t.Error("the socket was left behind")
	}
	if _, err := Listen(context.Background(), filepath.Join(dir, strings.Repeat("n", 200))); err == nil {
		t.Error("a name that no address can hold was taken")
	}
}
