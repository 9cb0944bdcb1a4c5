package linuxtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// readyModes say in some way that they can work, or lie about it.
func readyModes() []builtin {
	return []builtin{
		{usage: "ready [AFTER [TEXT]]", does: "prints TEXT (ready) after a while, lives", run: modeReady},
		{usage: "ready-die AFTER CODE", does: "prints ready at once, exits later", run: modeReadyDie},
		{usage: "never-ready", does: "prints starting every 100 ms and nothing else", run: modeNeverReady},
		{usage: "ready-not-listening PORT", does: "prints listening on PORT, which is not so", run: modeReadyNotListening},
		{usage: "ready-file PATH KIND [TEXT]", does: "writes a ready file: good, slow, partial, bad or empty; lives", run: modeReadyFile},
		{usage: "listen [PORT]", does: "listens on 127.0.0.1, prints listening on PORT; drops who connects", run: modeListen},
		{usage: "port-thief [PORT]", does: "as listen, but shares the port with whoever does too (SO_REUSEPORT)", run: modePortThief},
		{usage: "http [PORT]", does: "as listen, and answers every request with 200 and its PID", run: modeHTTP},
		{usage: "notify [AFTER]", does: "sends READY=1 to $NOTIFY_SOCKET after a while, lives", run: modeNotify},
	}
}

func modeReady(args []string) int {
	if err := pause(args, 0, "0s"); err != nil {
		return complain(err)
	}
	fmt.Println(arg(args, 1, "ready"))
	return live(nil)
}

func modeReadyDie(args []string) int {
	fmt.Println("ready")
	return modeExit([]string{arg(args, 1, "1"), arg(args, 0, "100ms")})
}

func modeNeverReady([]string) int {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for range HelperLife / (100 * time.Millisecond) {
		fmt.Println("starting")
		<-ticker.C
	}
	return 0
}

func modeReadyNotListening(args []string) int {
	fmt.Println("listening on", arg(args, 0, "0"))
	return live(nil)
}

// modeReadyFile writes what a reader may see of a ready file: all at once by
// rename (good), its two halves 200 ms apart (slow), only the first half
// (partial), bytes that are no text (bad), or nothing (empty).
func modeReadyFile(args []string) int {
	path, kind, text := arg(args, 0, ""), arg(args, 1, "good"), arg(args, 2, "ready\n")
	half := len(text) / 2
	var err error
	switch kind {
	case "good":
		temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
		if err = os.WriteFile(temp, []byte(text), 0o644); err == nil {
			err = os.Rename(temp, path)
		}
	case "slow":
		if err = os.WriteFile(path, []byte(text[:half]), 0o644); err == nil {
			err = pause([]string{"200ms"}, 0, "")
		}
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
	case "partial":
		err = os.WriteFile(path, []byte(text[:half]), 0o644)
	case "bad":
		err = os.WriteFile(path, []byte{0xff, 0xfe, 0, '\n'}, 0o644)
	case "empty":
		err = os.WriteFile(path, nil, 0o644)
	default:
		err = fmt.Errorf("no kind of ready file is called %q", kind)
	}
	if err != nil {
		return complain(err)
	}
	return live(nil)
}

// listen opens a TCP port of the loopback; port 0 lets the kernel choose.
func listen(args []string, share bool) (net.Listener, error) {
	config := net.ListenConfig{}
	if share {
		config.Control = func(_, _ string, c syscall.RawConn) error {
			var err error
			ctlErr := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			})
			return errors.Join(ctlErr, err)
		}
	}
	l, err := config.Listen(context.Background(), "tcp", "127.0.0.1:"+arg(args, 0, "0"))
	if err != nil {
		return nil, err
	}
	fmt.Println("listening on", l.Addr().(*net.TCPAddr).Port)
	return l, nil
}

func modeListen(args []string) int { return dropAll(listen(args, false)) }

func modePortThief(args []string) int { return dropAll(listen(args, true)) }

// dropAll closes each connection at once.
func dropAll(l net.Listener, err error) int {
	if err != nil {
		return complain(err)
	}
	timer := time.AfterFunc(HelperLife, func() { _ = l.Close() }) // ends the loop
	defer timer.Stop()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return 0
		}
		if err != nil {
			return complain(err)
		}
		_ = conn.Close() // dropping it is the point
	}
}

func modeHTTP(args []string) int {
	l, err := listen(args, false)
	if err != nil {
		return complain(err)
	}
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, os.Getpid())
		}),
	}
	timer := time.AfterFunc(HelperLife, func() { _ = server.Close() }) // ends Serve
	defer timer.Stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return complain(err)
	}
	return 0
}

func modeNotify(args []string) int {
	if err := pause(args, 0, "0s"); err != nil {
		return complain(err)
	}
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return complain(err)
	}
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		return complain(err)
	}
	return live(nil)
}
