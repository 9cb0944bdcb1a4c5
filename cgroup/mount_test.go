package cgroup

import (
	"errors"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// What real hosts have in /proc/self/mountinfo, shortened to the lines that matter.
const (
	infoDebian = `22 28 0:21 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
29 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
30 22 0:27 / /sys/fs/pstore rw,nosuid,nodev,noexec,relatime shared:10 - pstore none rw
`
	infoHybrid = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	infoV1 = `32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
`
	infoContainer = `1203 1199 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate
`
	infoBind = `1203 1199 0:26 /system.slice/docker-1.scope /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw
`
	infoTwo = `50 22 0:26 / /mnt/cg rw,relatime shared:9 master:1 - cgroup2 none rw
29 22 0:26 / /sys/fs/cgroup ro,relatime shared:9 - cgroup2 cgroup2 rw
`
	infoMullvad = infoDebian + `60 28 0:50 / /opt/net\040cls rw,relatime - cgroup net_cls rw,net_cls
`
	infoBlank = `50 22 0:26 / /mnt/my\040cg\134x rw,relatime - cgroup2 none rw
`
)

func TestParseMounts(t *testing.T) {
	tests := []struct {
		name, info string
		want       Mount
		n          int
	}{
		{"unified", infoDebian, Mount{Path: "/sys/fs/cgroup", Root: "/", NSDelegate: true, id: 29}, 1},
		{"hybrid", infoHybrid, Mount{Path: "/sys/fs/cgroup/unified", Root: "/", Hybrid: true, id: 41}, 1},
		{"v1 only", infoV1, Mount{}, 0},
		{"none", "", Mount{}, 0},
		{"read-only container", infoContainer, Mount{Path: "/sys/fs/cgroup", Root: "/", ReadOnly: true, NSDelegate: true, id: 1203}, 1},
		{"bind mount", infoBind, Mount{Path: "/sys/fs/cgroup", Root: "/system.slice/docker-1.scope", id: 1203}, 1},
		{"writable one first", infoTwo, Mount{Path: "/mnt/cg", Root: "/", id: 50}, 2},
		{"net_cls is not hybrid", infoMullvad, Mount{Path: "/sys/fs/cgroup", Root: "/", NSDelegate: true, id: 29}, 1},
		{"blanks in the path", infoBlank, Mount{Path: `/mnt/my cg\x`, Root: "/", id: 50}, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := parseMounts([]byte(test.info))
			if len(got) != test.n {
				t.Fatalf("parseMounts = %+v, want %d mounts", got, test.n)
			}
			if test.n > 0 && got[0] != test.want {
				t.Errorf("parseMounts[0] = %+v, want %+v", got[0], test.want)
			}
		})
	}
}

func FuzzParseMounts(f *testing.F) {
	for _, seed := range []string{infoDebian, infoHybrid, infoV1, infoContainer, infoBind, infoTwo, infoMullvad, infoBlank, "1 2 - cgroup2 - cgroup2"} {
		f.Add([]byte(seed))
	}
	if own, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		f.Add(own)
	}
	f.Fuzz(func(t *testing.T, info []byte) {
		mounts := parseMounts(info)
		if len(mounts) > strings.Count(string(info), "cgroup2") {
			t.Errorf("%d mounts from %q", len(mounts), info)
		}
		for i, m := range mounts {
			if !path.IsAbs(m.Path) || !path.IsAbs(m.Root) {
				t.Errorf("mount %+v from %q", m, info)
			}
			if i > 0 && mounts[i-1].ReadOnly && !m.ReadOnly {
				t.Errorf("read-only mount first: %+v", mounts)
			}
		}
	})
}

func TestLocate(t *testing.T) {
	whole := Mount{Path: "/sys/fs/cgroup", Root: "/"}
	bind := Mount{Path: "/sys/fs/cgroup", Root: "/docker/1"}
	tests := []struct {
		m         Mount
		in, want  string
		wantError error
	}{
		{whole, "0::/\n", "/sys/fs/cgroup", nil},
		{whole, "4:memory:/x\n0::/user.slice/a b.scope\n", "/sys/fs/cgroup/user.slice/a b.scope", nil},
		{bind, "0::/docker/1\n", "/sys/fs/cgroup", nil},
		{bind, "0::/docker/1/leaf\n", "/sys/fs/cgroup/leaf", nil},
		{bind, "0::/docker/12\n", "", ErrNotSupported},
		{whole, "0::/../other\n", "", ErrNotSupported},
		{whole, "4:memory:/x\n", "", ErrNoCgroup2},
		{whole, "", "", ErrNoCgroup2},
	}
	for _, test := range tests {
		got, err := test.m.locate(test.in)
		if got != test.want || !errors.Is(err, test.wantError) {
			t.Errorf("locate(%q) on %+v = %q, %v, want %q, %v", test.in, test.m, got, err, test.want, test.wantError)
		}
	}
}

func TestHeldByV1(t *testing.T) {
	const host = "9:name=systemd:/\n4:memory:/x\n3:cpu,cpuacct:/\n2:blkio:/\n0::/\n"
	for controller, want := range map[string]bool{"memory": true, "cpu": true, "io": true, "pids": false, "cpuacc": false} {
		if got := heldByV1In(host, v1Name(controller)); got != want {
			t.Errorf("heldByV1In(%q) = %v, want %v", controller, got, want)
		}
	}
}

func TestFindMountFindsThisHosts(t *testing.T) {
	m, err := FindMount()
	if err != nil {
		linuxtest.Skip(t, err.Error()) // TestFindRootWithoutMount covers the answer
	}
	d, err := Open(m.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	// In a container the host's hierarchies of v1 need not be seen.
	want := heldByV1("memory") && strings.Contains(string(mounts), " - cgroup ")
	if m.Hybrid != want {
		t.Errorf("Hybrid = %v, but memory held by v1: %v", m.Hybrid, want)
	}
}

func TestSelfPathHoldsThisProcess(t *testing.T) {
	testDir(t) // or skip
	self, err := SelfPath()
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	pids, err := d.PIDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if pid == os.Getpid() {
			return
		}
	}
	t.Errorf("%s holds %v, not %d", self, pids, os.Getpid())
}
