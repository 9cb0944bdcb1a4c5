package cgroup

import (
	"bytes"
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is where a cgroup2 file system is mounted.
type Mount struct {
	Path       string // "/sys/fs/cgroup", or "/sys/fs/cgroup/unified" on hybrid hosts
	Root       string // the cgroup that is seen there, "/" unless it is a bind mount
	Hybrid     bool   // cgroup v1 holds controllers on this host
	ReadOnly   bool   // as in most containers
	NSDelegate bool   // cgroup namespaces are borders of delegation

	id  uint64 // as in mountinfo
	own string // the caller's /proc/self/cgroup at that time; "" if it could not be read
}

// FindMount looks for the cgroup2 file system of the calling process in
// /proc/self/mountinfo. Of several it takes a writable one before a read-only one
// and /sys/fs/cgroup before others. Without any the error is [ErrNoCgroup2].
func FindMount() (Mount, error) {
	mounts, err := findMounts()
	if err != nil {
		return Mount{}, err
	}
	return mounts[0], nil
}

// findMounts returns at least one mount or an error.
func findMounts() ([]Mount, error) {
	buf, err := readAt(unix.AT_FDCWD, "/proc/self/mountinfo", make([]byte, 0, 8192))
	if err != nil {
		return nil, fmt.Errorf("find the cgroup2 mount: %w", err)
	}
	mounts := slices.DeleteFunc(parseMounts(buf), Mount.useless)
	if len(mounts) == 0 {
		return nil, fmt.Errorf("find the cgroup2 mount: %w", ErrNoCgroup2)
	}
	// The kernel takes a lock of all cgroups for this file, so it is read once.
	if own, err := readAt(unix.AT_FDCWD, "/proc/self/cgroup", buf[:0]); err == nil {
		text := string(own)
		for i := range mounts {
			mounts[i].own = text
		}
	}
	return mounts, nil
}

// useless says whether nothing can be made below the mount: it cannot be reached by its
// path, because another file system was mounted over it or above it, or it is one of a
// single file. systemd from 254 on gives services memory.pressure that way.
func (m Mount) useless() bool {
	var st unix.Statfs_t
	if err := unix.Statfs(m.Path, &st); err != nil || int64(st.Type) != unix.CGROUP2_SUPER_MAGIC {
		return true
	}
	var stx unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, m.Path, unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE|unix.STATX_MNT_ID, &stx)
	if err == nil && stx.Mode&unix.S_IFMT != unix.S_IFDIR {
		return true
	}
	if err != nil || stx.Mask&unix.STATX_MNT_ID == 0 || stx.Mnt_id == 0 {
		return false // before Linux 5.8, and in qemu-user, nothing tells them apart
	}
	return stx.Mnt_id != m.id
}

// parseMounts returns the cgroup2 mounts of a mountinfo file, the best one first.
// Lines that it does not understand are left out. The format is
//
//	36 35 98:0 /root /mount/point rw,noatime shared:1 - cgroup2 source rw,nsdelegate
func parseMounts(mountinfo []byte) []Mount {
	var mounts []Mount
	hybrid := false
	for line := range bytes.Lines(mountinfo) {
		var left [6][]byte
		var right [3][]byte
		before, after, ok := bytes.Cut(line, []byte(" - "))
		if !ok || !fill(left[:], before) || !fill(right[:], after) {
			continue
		}
		switch options, super := left[5], right[2]; string(right[0]) {
		case "cgroup":
			hybrid = hybrid || slices.ContainsFunc(limitControllers(), func(name string) bool { return hasOption(super, name) })
		case "cgroup2":
			id, _ := strconv.ParseUint(string(left[0]), 10, 64)
			m := Mount{
				id:         id,
				Path:       unescape(string(left[4])),
				Root:       unescape(string(left[3])),
				ReadOnly:   hasOption(options, "ro") || hasOption(super, "ro"),
				NSDelegate: hasOption(options, "nsdelegate") || hasOption(super, "nsdelegate"),
			}
			if path.IsAbs(m.Path) && path.IsAbs(m.Root) {
				mounts = append(mounts, m)
			}
		}
	}
	for i := range mounts {
		mounts[i].Hybrid = hybrid
	}
	slices.SortStableFunc(mounts, func(a, b Mount) int { return cmp.Compare(rank(a), rank(b)) })
	return mounts
}

// fill takes as many fields from the front of a text; false if there are fewer.
func fill(fields [][]byte, text []byte) bool {
	n := 0
	for field := range bytes.FieldsSeq(text) {
		if fields[n] = field; n == len(fields)-1 {
			return true
		}
		n++
	}
	return false
}

// hasOption looks for one of the options that commas divide.
func hasOption(options []byte, name string) bool {
	for option := range bytes.SplitSeq(options, []byte{','}) {
		if string(option) == name {
			return true
		}
	}
	return false
}

// rank orders mounts, the best one lowest.
func rank(m Mount) int {
	r := 0
	if m.ReadOnly {
		r += 100
	}
	if m.Root != "/" {
		r += 10
	}
	switch m.Path {
	case "/sys/fs/cgroup":
	case "/sys/fs/cgroup/unified":
		r++
	default:
		r += 2
	}
	return r
}

// limitControllers are the cgroup v1 mount options that name controllers which limits
// would need. A host may well mount net_cls or a named hierarchy beside a complete
// cgroup2.
func limitControllers() []string { return []string{"memory", "cpu", "cpuset", "pids", "blkio"} }

// unescape undoes what the kernel does to blanks, tabs, newlines and backslashes in
// the fields of mountinfo: three octal digits after a backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1:i+4]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '7' {
			return false
		}
	}
	return s[0] <= '3'
}

// SelfPath returns the path of the calling process's own cgroup, below the cgroup2
// mount. It fails if the mount does not show that cgroup, as with a bind mount of
// another part of the tree.
func SelfPath() (string, error) {
	m, err := FindMount()
	if err != nil {
		return "", err
	}
	return m.selfPath()
}

// selfPath is where the caller was when the mount was found.
func (m Mount) selfPath() (string, error) {
	p, err := m.locate(m.own)
	if err != nil && strings.HasPrefix(m.Root, "/..") && !strings.Contains(m.own, "0::/..") {
		// The mount is of another cgroup namespace, from which ours was made: the way
		// from its top down to us has names that we are not told. (Who was moved out of
		// its own namespace is not looked for: that place is not its own.)
		p, err = m.search()
	}
	if err != nil {
		return "", fmt.Errorf("find our own cgroup: %w", err)
	}
	return p, nil
}

// locate turns the line "0::/a/b" of a /proc/<pid>/cgroup file into a path.
func (m Mount) locate(procCgroup string) (string, error) {
	for line := range strings.Lines(procCgroup) {
		name, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		below, ok := cutDir(name, m.Root)
		if !ok || strings.HasPrefix(name, "/..") {
			return "", fmt.Errorf("cgroup %s is not below %s, which is what %s shows: %w", name, m.Root, m.Path, ErrNotSupported)
		}
		return path.Join(m.Path, below), nil
	}
	return "", fmt.Errorf("no cgroup v2 line in /proc/self/cgroup: %w", ErrNoCgroup2)
}

// cutDir takes the directory dir off the front of p.
func cutDir(p, dir string) (string, bool) {
	if dir == "/" {
		return p, true
	}
	below, ok := strings.CutPrefix(p, dir)
	return below, ok && (below == "" || below[0] == '/')
}
