package userscope

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// endpoint is a socket where systemd may be found.
type endpoint struct {
	socket string // a path, or "@" and an abstract name
	bus    bool   // a bus with others on it, not systemd alone
	uid    int    // who has to listen there
}

// endpoints lists where to look, the best first. systemd's own socket needs no bus
// and has nobody else on it.
func endpoints(system bool, getenv func(string) string, uid int) []endpoint {
	if system {
		return []endpoint{{"/run/systemd/private", false, 0}, {"/run/dbus/system_bus_socket", true, 0}}
	}
	var all []endpoint
	// The variable is missing under cron, and is another user's under su.
	for _, dir := range []string{getenv("XDG_RUNTIME_DIR"), fmt.Sprintf("/run/user/%d", uid)} {
		if dir == "" {
			continue
		}
		all = append(all, endpoint{filepath.Join(dir, "systemd/private"), false, uid})
		for _, socket := range sockets(getenv("DBUS_SESSION_BUS_ADDRESS")) {
			all = append(all, endpoint{socket, true, uid})
		}
		all = append(all, endpoint{filepath.Join(dir, "bus"), true, uid})
	}
	var unique []endpoint
	for _, e := range all {
		if !slices.Contains(unique, e) {
			unique = append(unique, e)
		}
	}
	return unique
}

// sockets returns the unix sockets of a D-Bus address, such as
// "unix:path=/run/user/1000/bus,guid=0123;unix:abstract=/tmp/dbus-1".
func sockets(address string) []string {
	var found []string
	for one := range strings.SplitSeq(address, ";") {
		keys, ok := strings.CutPrefix(one, "unix:")
		if !ok {
			continue
		}
		for pair := range strings.SplitSeq(keys, ",") {
			key, value, _ := strings.Cut(pair, "=")
			value, err := url.PathUnescape(value)
			switch {
			case err != nil || value == "":
			case key == "path":
				found = append(found, value)
			case key == "abstract":
				found = append(found, "@"+value)
			}
		}
	}
	return found
}

// connect connects to the first endpoint where systemd answers.
func connect(ctx context.Context, system bool) (*dbus.Conn, error) {
	var tried []error // but what is not there, which is no news
	for _, e := range endpoints(system, os.Getenv, os.Geteuid()) {
		conn, err := dbus.NewConnection(func() (*godbus.Conn, error) { return e.dial(ctx) })
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			tried = append(tried, fmt.Errorf("%s: %w", e.socket, err))
		}
	}
	cause := CauseNoManager
	// What sd_booted(3) looks at.
	if _, err := os.Stat("/run/systemd/system"); err != nil || system {
		cause = CauseNoSystemd
	}
	return nil, &Error{Cause: cause, Err: errors.Join(tried...)}
}

// dial opens an authenticated connection that carries no descriptors: godbus (5.2.4)
// ends the whole program when somebody sends it an array of them. (Before 5.2 it also
// did when a connection was closed in the middle of a message.)
func (e endpoint) dial(ctx context.Context) (*godbus.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", e.socket)
	if err != nil {
		return nil, shorten(err)
	}
	if err := checkPeer(c.(*net.UnixConn), e.uid); err != nil {
		_ = c.Close() // nothing was said
		return nil, err
	}
	conn, err := godbus.NewConn(c, godbus.WithContext(ctx))
	if err != nil {
		_ = c.Close() // nothing was said
		return nil, err
	}
	err = conn.Auth([]godbus.Auth{godbus.AuthExternal(strconv.Itoa(os.Geteuid()))})
	if err == nil && e.bus {
		err = greet(conn)
	}
	if err != nil {
		_ = conn.Close() // the first error is the one that counts
		return nil, err
	}
	return conn, nil
}

// shorten leaves out what the caller says anyway.
func shorten(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// checkPeer makes sure of who listens: with sudo -E, root gets the runtime directory
// of a user, whose systemd must not have root's processes.
func checkPeer(c *net.UnixConn, uid int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		peer, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return fmt.Errorf("find out who listens: %w", err)
	}
	if int(peer.Uid) != uid {
		return fmt.Errorf("user %d listens there, not user %d", peer.Uid, uid)
	}
	return nil
}

// greet introduces us to a bus, and sees whether systemd is on it. A bus that was
// only started by our coming waits until systemd has come too.
func greet(conn *godbus.Conn) error {
	if err := conn.Hello(); err != nil {
		return err
	}
	systemd := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	if err := systemd.Call("org.freedesktop.DBus.Peer.Ping", 0).Err; err != nil {
		return fmt.Errorf("systemd is not on this bus: %w", err)
	}
	return nil
}
