package leftover

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// modeSilent serves a file whose content it never gives out, and starts a program
// with that file as descriptor 3. Its end makes everybody go on who waits.
func modeSilent(args []string) int {
	runtime.LockOSThread() // for good: the mount is this thread's
	file, err := mountSilent(args[0])
	if err != nil {
		fmt.Println("no /dev/fuse that works:", err)
		return 1
	}
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdout = os.Stdout
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(file), "silent")}
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("left", cmd.Process.Pid)
	return rest()
}

// modeStuck keeps its memory map locked for ever: one thread reads from the silent
// file in a way that holds the lock, another waits to change the map, and behind that
// one wait all who want to look into the process. The same happens on a machine whose
// file server is dead, and is why ps can hang there.
func modeStuck([]string) int {
	at, err := unix.Mmap(3, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	mem, err := unix.Open("/proc/self/mem", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	buf := make([]byte, 1)
	go func() {
		_, _ = unix.Pread(mem, buf, int64(uintptr(unsafe.Pointer(&at[0]))))
	}()
	for {
		// Sooner or later the other thread has the lock.
		other, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil || unix.Munmap(other) != nil {
			return 1
		}
	}
}

// mountSilent mounts a file, which it makes, and opens it.
func mountSilent(path string) (int, error) {
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return -1, err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return -1, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, err
	}
	device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	options := fmt.Sprintf("fd=%d,rootmode=100000,user_id=0,group_id=0", device)
	if err := unix.Mount("silent", path, "fuse", 0, options); err != nil {
		return -1, err
	}
	go serveSilent(device)
	file, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t // asks for the size, beyond which nothing is read
	return file, unix.Fstat(file, &st)
}

// serveSilent answers what it takes to open the file, from linux/fuse.h.
func serveSilent(device int) {
	const (
		getattr = 3
		open    = 14
		read    = 15
		init    = 26
	)
	buf := make([]byte, 256<<10)
	for {
		n, err := unix.Read(device, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n < 40 {
			return
		}
		var body []byte
		errno := int32(0)
		switch binary.NativeEndian.Uint32(buf[4:]) {
		case init:
			body = make([]byte, 64)
			binary.NativeEndian.PutUint32(body[0:], 7)
			binary.NativeEndian.PutUint32(body[4:], 31)
			binary.NativeEndian.PutUint32(body[20:], 4096) // max_write
		case getattr:
			body = make([]byte, 104)
			binary.NativeEndian.PutUint64(body[16:], 1)        // inode
			binary.NativeEndian.PutUint64(body[24:], 1<<20)    // size
			binary.NativeEndian.PutUint32(body[76:], 0o100644) // mode
			binary.NativeEndian.PutUint32(body[80:], 1)        // links
		case open:
			body = make([]byte, 16)
		case read:
			continue
		default:
			errno = -int32(unix.ENOSYS)
		}
		head := make([]byte, 16)
		binary.NativeEndian.PutUint32(head[0:], uint32(len(head)+len(body)))
		binary.NativeEndian.PutUint32(head[4:], uint32(errno))
		copy(head[8:], buf[8:16])                        // unique
		_, _ = unix.Write(device, append(head, body...)) // who asked may have gone
	}
}
