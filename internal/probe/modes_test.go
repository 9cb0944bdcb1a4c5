package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// helperModes are workers that this package's tests need.
func helperModes() linuxtest.Modes {
	return linuxtest.Modes{
		"answer":    modeAnswer,
		"mute":      modeMute,
		"cut":       modeCut,
		"health":    modeHealth,
		"hand-over": modeHandOver,
		"sit":       modeSit,
		"say":       modeSay,
		"send":      modeSend,
		"any":       modeListenAny,
	}
}

// serve listens on 127.0.0.1, prints the port and serves until TERM.
func serve(h http.Handler, configure func(*http.Server)) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fail(err)
	}
	fmt.Println("listening on", l.Addr().(*net.TCPAddr).Port)
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	if configure != nil {
		configure(server)
	}
	timer := time.AfterFunc(linuxtest.HelperLife, func() { _ = server.Close() })
	defer timer.Stop()
	return fail(server.Serve(l))
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// modeAnswer answers /CODE with that status, and HEAD requests only below /head.
func modeAnswer([]string) int {
	return serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(strings.Trim(r.URL.Path, "/"))
		switch {
		case err == nil:
			w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
			w.WriteHeader(code)
			fmt.Fprintln(w, r.Host)
		case r.URL.Path == "/head" && r.Method == http.MethodHead:
		case r.URL.Path == "/big":
			buf := make([]byte, 1<<16)
			for range 1 << 10 {
				if _, err := w.Write(buf); err != nil {
					return
				}
			}
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}), nil)
}

// modeMute accepts connections in the kernel only and never answers.
func modeMute([]string) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fail(err)
	}
	fmt.Println("listening on", l.Addr().(*net.TCPAddr).Port)
	untilTerm()
	return fail(l.Close())
}

// modeCut promises 100 bytes and closes after two.
func modeCut([]string) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fail(err)
	}
	fmt.Println("listening on", l.Addr().(*net.TCPAddr).Port)
	for {
		conn, err := l.Accept()
		if err != nil {
			return fail(err)
		}
		buf := make([]byte, 4096)
		_, _ = conn.Read(buf)
		_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok"))
		_ = conn.Close()
	}
}

// modeHealth is a gRPC server: status of grpc.health.v1.Health/Check, or
// "unimplemented", "later" (NOT_SERVING at first) or "plain" (no gRPC at all).
func modeHealth(args []string) int {
	kind, calls := args[0], 0
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		if kind == "plain" {
			fmt.Fprintln(w, "hello")
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		if kind == "unimplemented" || r.URL.Path != "/grpc.health.v1.Health/Check" {
			w.Header().Set("Grpc-Status", "12")
			return
		}
		status, err := strconv.Atoi(kind)
		if kind == "later" && calls < 4 {
			status = 2
		} else if err != nil {
			status = 1
		}
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write([]byte{0, 0, 0, 0, 2, 8, byte(status)})
		w.Header().Set("Grpc-Status", "0")
	})
	return serve(h, func(s *http.Server) {
		s.Protocols = new(http.Protocols)
		s.Protocols.SetUnencryptedHTTP2(true)
	})
}

// modeHandOver listens and gives the socket to a child in another cgroup. With
// "close" it closes its own.
func modeHandOver(args []string) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fail(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return fail(err)
	}
	group, err := unix.Open(args[0], unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	_, err = linuxtest.StartProcess("/proc/self/exe", []string{os.Args[0], strings.Replace(os.Args[1], "hand-over", "sit", 1)}, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{^uintptr(0), ^uintptr(0), os.Stderr.Fd(), f.Fd()},
		Sys:   &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: group},
	})
	if err != nil {
		return fail(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if args[1] == "close" {
		if err := errors.Join(l.Close(), f.Close()); err != nil {
			return fail(err)
		}
	}
	fmt.Println("listening on", port)
	untilTerm()
	return 0
}

// modeSit lives.
func modeSit([]string) int {
	untilTerm()
	return 0
}

func untilTerm() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, linuxtest.HelperLife)
	defer cancel()
	<-ctx.Done()
}

// modeSay sends messages to $NOTIFY_SOCKET and ends at once, or lives when the
// first argument is "live". With "move DIR" it goes to another cgroup before.
func modeSay(args []string) int {
	live := args[0] == "live"
	if live {
		args = args[1:]
	}
	if args[0] == "move" {
		if err := os.WriteFile(args[1]+"/cgroup.procs", []byte("0"), 0); err != nil {
			return fail(err)
		}
		args = args[2:]
	}
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return fail(err)
	}
	for _, m := range args {
		if _, err := conn.Write([]byte(m)); err != nil {
			return fail(err)
		}
	}
	fmt.Println("said")
	if live {
		untilTerm()
	}
	return 0
}

// modeListenAny listens on the given address, shared with others.
func modeListenAny(args []string) int {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var opt error
		err := c.Control(func(fd uintptr) {
			opt = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
		return errors.Join(err, opt)
	}}
	l, err := config.Listen(context.Background(), args[0], args[1])
	if err != nil {
		return fail(err)
	}
	fmt.Println("listening on", l.Addr().(*net.TCPAddr).Port)
	untilTerm()
	return 0
}
