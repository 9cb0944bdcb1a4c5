package resource

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// Every disk of this machine is given by its node, and every partition by that means
// the disk that it is on.
func TestDisksByTheirNodes(t *testing.T) {
	linuxtest.NeedCapability(t, unix.CAP_MKNOD, "CAP_MKNOD")
	entries, err := os.ReadDir("/sys/dev/block")
	if err != nil || len(entries) == 0 {
		t.Fatalf("ReadDir = %d disks, %v", len(entries), err)
	}
	for i, e := range entries {
		var major, minor uint32
		if _, err := fmt.Sscanf(e.Name(), "%d:%d", &major, &minor); err != nil {
			t.Fatal(err)
		}
		node := filepath.Join(t.TempDir(), fmt.Sprint("disk", i))
		if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
			t.Fatal(err)
		}
		want := e.Name()
		sys, err := filepath.EvalSymlinks("/sys/dev/block/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(sys + "/partition"); err == nil {
			b, err := os.ReadFile(filepath.Dir(sys) + "/dev")
			if err != nil {
				t.Fatal(err)
			}
			want = string(b[:len(b)-1])
		}
		if got, err := diskNumbers(node); got != want || err != nil {
			t.Errorf("diskNumbers of the node of %s = %q, %v, want %q", e.Name(), got, err, want)
		}
	}
}

// A file or directory means the disk that it is on.
func TestDiskOfAFile(t *testing.T) {
	var st unix.Stat_t
	if err := unix.Stat(".", &st); err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	want, wantErr := wholeDisk(fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if unix.Major(st.Dev) == 0 {
		want = "" // on a file system without a disk, such as tmpfs
	}
	if wantErr != nil {
		t.Fatal(wantErr)
	}
	for _, path := range []string{here, here + "/doc.go"} {
		if got, err := diskNumbers(path); got != want || (err == nil) != (want != "") {
			t.Errorf("diskNumbers(%q) = %q, %v, want %q", path, got, err, want)
		}
	}
}
