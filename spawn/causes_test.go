package spawn

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// wantError is how a start has to fail.
type wantError struct {
	cause  Cause
	errno  unix.Errno // 0: any
	detail string     // a part of it
}

func (w wantError) check(t *testing.T, err error) {
	t.Helper()
	var e *Error
	switch {
	case !errors.As(err, &e):
		t.Errorf("%v, want an *Error", err)
	case e.Cause != w.cause || w.errno != 0 && !errors.Is(err, w.errno) || !strings.Contains(e.Detail, w.detail):
		t.Errorf("%q (cause %v), want cause %v, errno %q, detail %q", err, e.Cause, w.cause, w.errno, w.detail)
	case e.Hint() == "" && e.Cause != CauseInvalid:
		t.Errorf("%q has no hint", err)
	}
}

// cause is one row of the table: a Cmd that cannot be started.
type cause struct {
	name    string
	prepare func(t *testing.T, dir string, c *Cmd)
	want    wantError
}

// write makes an executable file in dir the program of c.
func write(t *testing.T, dir string, c *Cmd, data string) {
	t.Helper()
	c.Path = filepath.Join(dir, "program")
	if err := os.WriteFile(c.Path, []byte(data), 0o755); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// H-43: what cannot be started says why.
func TestH43CausesAreToldApart(t *testing.T) {
	table := slices.Concat(fileCauses(), formatCauses(), placeCauses(), badCmds())
	ways(t, func(t *testing.T, c Cmd) {
		for _, row := range table {
			t.Run(row.name, func(t *testing.T) {
				c := c
				c.Path = "/bin/sh"
				c.Leaf = newLeaf(t, testRoot(t), "leaf")
				row.prepare(t, publicDir(t), &c)
				p, err := Start(&c)
				if err == nil {
					finish(t, p)
				}
				row.want.check(t, err)
			})
		}
	})
}

// fileCauses are about the file at Path.
func fileCauses() []cause {
	return []cause{
		{
			"no such program", func(_ *testing.T, dir string, c *Cmd) { c.Path = dir + "/nothing" },
			wantError{CauseNotFound, unix.ENOENT, ""},
		},
		{
			"below a file", func(t *testing.T, dir string, c *Cmd) { write(t, dir, c, ""); c.Path += "/x" },
			wantError{CauseNotFound, unix.ENOTDIR, ""},
		},
		{"dangling link", func(t *testing.T, dir string, c *Cmd) {
			c.Path = dir + "/link"
			if err := os.Symlink("nowhere", c.Path); err != nil {
				t.Fatal(err)
			}
		}, wantError{CauseNotFound, unix.ENOENT, ""}},
		{
			"relative to the directory", func(_ *testing.T, dir string, c *Cmd) { c.Path, c.Dir = "bin/nothing", dir },
			wantError{CauseNotFound, unix.ENOENT, ""},
		},
		{
			"a directory", func(_ *testing.T, dir string, c *Cmd) { c.Path = dir },
			wantError{CauseNotExecutable, unix.EACCES, "directory"},
		},
		{
			"a device", func(_ *testing.T, _ string, c *Cmd) { c.Path = os.DevNull },
			wantError{CauseNotExecutable, unix.EACCES, "not a regular file"},
		},
		{
			"no x bit", func(t *testing.T, dir string, c *Cmd) { write(t, dir, c, "#!/bin/sh\n"); chmod(t, c.Path, 0o644) },
			wantError{CauseNotExecutable, unix.EACCES, "mode is -rw-r--r--"},
		},
		{"being written", func(t *testing.T, dir string, c *Cmd) {
			write(t, dir, c, elfHeader())
			f, err := os.OpenFile(c.Path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = f.Close() })
		}, wantError{CauseNotExecutable, unix.ETXTBSY, "writing"}},
	}
}

// formatCauses are about what is in it.
func formatCauses() []cause {
	return []cause{
		{
			"text without #!", func(t *testing.T, dir string, c *Cmd) { write(t, dir, c, "echo hello\n") },
			wantError{CauseBadFormat, unix.ENOEXEC, ""},
		},
		{
			"empty file", func(t *testing.T, dir string, c *Cmd) { write(t, dir, c, "") },
			wantError{CauseBadFormat, unix.ENOEXEC, ""},
		},
		{"another machine's program", func(t *testing.T, dir string, c *Cmd) {
			head := []byte(elfHeader())
			head[18] = 2 // EM_SPARC
			write(t, dir, c, string(head))
		}, wantError{CauseBadFormat, unix.ENOEXEC, ""}},
		{
			"no interpreter", func(t *testing.T, dir string, c *Cmd) { write(t, dir, c, "#! /no/such/python3 -u\n") },
			wantError{CauseNoInterpreter, unix.ENOENT, "interpreter /no/such/python3, named in "},
		},
		{
			"interpreter with a carriage return", func(t *testing.T, dir string, c *Cmd) { write(t, dir, c, "#!/bin/sh\r\n") },
			wantError{CauseNoInterpreter, unix.ENOENT, `"/bin/sh\r"`},
		},
		{"interpreter of the interpreter", func(t *testing.T, dir string, c *Cmd) {
			write(t, dir, c, "#!/no/such/python3\n")
			second := dir + "/second"
			if err := os.WriteFile(second, []byte("#!"+c.Path), 0o755); err != nil {
				t.Fatal(err)
			}
			c.Path = second
		}, wantError{CauseNoInterpreter, unix.ENOENT, "interpreter /no/such/python3, named in "}},
		{
			"interpreter without x bit", func(t *testing.T, dir string, c *Cmd) { write(t, dir, c, "#!/etc/passwd\n") },
			wantError{CauseNoInterpreter, unix.EACCES, "interpreter /etc/passwd, named in "},
		},
		{
			"no loader", func(t *testing.T, dir string, c *Cmd) { write(t, dir, c, loaderless(t)) },
			wantError{CauseNoInterpreter, unix.ENOENT, "interpreter /lib00/"},
		},
		{
			"too long", func(_ *testing.T, _ string, c *Cmd) { c.Args = []string{strings.Repeat("x", 200_000)} },
			wantError{CauseInvalid, unix.E2BIG, "too long"},
		},
	}
}

// loaderless is a dynamic program whose loader was renamed.
func loaderless(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, loader := range []string{"/lib64/ld-", "/lib/ld-"} {
		if bytes.Contains(data, []byte(loader)) {
			return string(bytes.ReplaceAll(data, []byte(loader), []byte("/lib00/ld-")[:len(loader)]))
		}
	}
	linuxtest.Skip(t, "needs a dynamic /bin/sh")
	return ""
}

// placeCauses are about the directory, the user and the leaf.
func placeCauses() []cause {
	nobody := &Credential{UID: 65534, GID: 65534}
	return []cause{
		{
			"no directory", func(_ *testing.T, dir string, c *Cmd) { c.Dir = dir + "/nothing" },
			wantError{CauseBadDir, unix.ENOENT, "/nothing"},
		},
		{
			"directory is a file", func(_ *testing.T, _ string, c *Cmd) { c.Dir = "/etc/passwd" },
			wantError{CauseBadDir, unix.ENOTDIR, "/etc/passwd"},
		},
		{"directory of somebody else", func(t *testing.T, dir string, c *Cmd) {
			linuxtest.NeedRoot(t, "to become another user")
			c.Dir, c.Credential = dir, nobody
			chmod(t, dir, 0o700)
		}, wantError{CauseBadDir, unix.EACCES, "user 65534 may not enter directory "}},
		{"program of somebody else", func(t *testing.T, dir string, c *Cmd) {
			linuxtest.NeedRoot(t, "to become another user")
			write(t, dir, c, elfHeader())
			chmod(t, c.Path, 0o700)
			c.Credential = nobody
		}, wantError{CausePermission, unix.EACCES, "user 65534 may not execute it, its mode is -rwx------"}},
		{"program below somebody else's directory", func(t *testing.T, dir string, c *Cmd) {
			linuxtest.NeedRoot(t, "to become another user")
			write(t, dir, c, elfHeader())
			chmod(t, dir, 0o700)
			c.Credential = nobody
		}, wantError{CausePermission, unix.EACCES, "user 65534 may not enter directory "}},
		{"user -1", func(t *testing.T, _ string, c *Cmd) {
			linuxtest.NeedRoot(t, "to become another user")
			c.Credential = &Credential{UID: 1<<32 - 1, GID: 1, Groups: []uint32{1<<32 - 1}}
		}, wantError{CauseCredential, unix.EINVAL, "become user 4294967295"}},
		{
			"leaf is gone", func(t *testing.T, _ string, c *Cmd) { remove(t, c) },
			wantError{CauseCgroupGone, unix.ENOENT, "is gone"},
		},
		{"leaf is frozen", func(t *testing.T, _ string, c *Cmd) {
			if err := c.Leaf.Freeze(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, wantError{CauseCgroupFrozen, unix.EBUSY, "is frozen"}},
		{"leaf is closed", func(t *testing.T, _ string, c *Cmd) {
			if err := c.Leaf.Close(); err != nil {
				t.Fatal(err)
			}
		}, wantError{CauseInvalid, unix.EBADF, "is not open"}},
	}
}

func closedFile(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "closed"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return f
}

// badCmds make no sense.
func badCmds() []cause {
	return []cause{
		{"weak beside a leaf", func(_ *testing.T, _ string, c *Cmd) { c.Weak = true }, wantError{CauseInvalid, 0, "weak"}},
		{"no leaf", func(_ *testing.T, _ string, c *Cmd) { c.Leaf = nil }, wantError{CauseInvalid, 0, "no leaf"}},
		{
			"closed output", func(t *testing.T, dir string, c *Cmd) { c.Stdout = closedFile(t, dir) },
			wantError{CauseInvalid, unix.EINVAL, "/closed is closed"},
		},
		{
			"closed extra file", func(t *testing.T, dir string, c *Cmd) { c.ExtraFiles = []*os.File{nil, closedFile(t, dir)} },
			wantError{CauseInvalid, unix.EINVAL, "/closed is closed"},
		},
		{"no path", func(_ *testing.T, _ string, c *Cmd) { c.Path = "" }, wantError{CauseInvalid, 0, "no path"}},
		{"no args", func(_ *testing.T, _ string, c *Cmd) { c.Args = []string{} }, wantError{CauseInvalid, 0, "Args"}},
		{
			"bad umask", func(_ *testing.T, _ string, c *Cmd) { c.Umask = number(0o1000) },
			wantError{CauseInvalid, 0, "umask 01000"},
		},
		{
			"zero byte in the path", func(_ *testing.T, _ string, c *Cmd) { c.Path = "/bin/\x00sh" },
			wantError{CauseInvalid, unix.EINVAL, `path "/bin/\x00sh" holds a zero byte`},
		},
		{
			"zero byte in an argument", func(_ *testing.T, _ string, c *Cmd) { c.Args = []string{"a", "\x00"} },
			wantError{CauseInvalid, unix.EINVAL, "argument"},
		},
		{
			"zero byte in the environment", func(_ *testing.T, _ string, c *Cmd) { c.Env = []string{"A=\x00"} },
			wantError{CauseInvalid, unix.EINVAL, "environment entry"},
		},
		{
			"zero byte in the directory", func(_ *testing.T, _ string, c *Cmd) { c.Dir = "/\x00" },
			wantError{CauseInvalid, unix.EINVAL, "directory"},
		},
	}
}

// remove takes the leaf away from under the Cmd.
func remove(t *testing.T, c *Cmd) {
	t.Helper()
	if err := unix.Rmdir(c.Leaf.Path()); err != nil {
		t.Fatal(err)
	}
}

// A leaf may go away between the check and the fork: the kernel's ENOENT must not
// be taken for a missing program.
func TestLeafGoneAtTheForkIsNoMissingProgram(t *testing.T) {
	linuxtest.NoLeaks(t)
	c := Cmd{Path: "/bin/sh", Leaf: newLeaf(t, testRoot(t), "leaf")}
	files, null, err := c.files()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(null) }()
	remove(t, &c)
	for _, start := range []func([]uintptr) (*Process, error){c.start, c.startHelper} {
		_, err = start(files)
		wantError{CauseCgroupGone, 0, "is gone"}.check(t, err)
	}
}

// A leaf in a frozen tree, or in one that is being frozen, is frozen as well, and a
// start in it would hang.
func TestLeafBelowAFrozenCgroupIsRefused(t *testing.T) {
	linuxtest.NoLeaks(t)
	root := testRoot(t)
	middle := newLeaf(t, root, "middle")
	old := newLeaf(t, middle, "old")
	if err := middle.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := (&Cmd{Leaf: old, Thawed: true}).checkLeaf(); err != nil {
		t.Errorf("the caller's word is not taken: %v", err)
	}
	for _, c := range []Cmd{{Leaf: old}, {Leaf: newLeaf(t, middle, "new")}} {
		c.Path = "/bin/sh"
		_, err := Start(&c)
		wantError{CauseCgroupFrozen, unix.EBUSY, "is frozen"}.check(t, err)
	}
	if err := middle.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, start(t, &Cmd{Path: tinyProgram(t), Leaf: old})); !exit.Success() {
		t.Errorf("after thawing: %v", exit)
	}
}

// Beside a threaded cgroup an ordinary one may hold no processes.
func TestLeafThatCannotHoldProcessesIsRefused(t *testing.T) {
	ways(t, func(t *testing.T, c Cmd) {
		root := testRoot(t)
		threaded := newLeaf(t, root, "threaded")
		if err := os.WriteFile(threaded.Path()+"/cgroup.type", []byte("threaded"), 0); err != nil {
			t.Fatal(err)
		}
		c.Path, c.Leaf = "/bin/sh", newLeaf(t, root, "beside")
		_, err := Start(&c)
		wantError{CauseInvalid, unix.EOPNOTSUPP, "cannot hold processes"}.check(t, err)
	})
}

func TestErrorIsOneLineWithAHint(t *testing.T) {
	for cause := CauseUnknown; cause <= CauseInvalid; cause++ {
		e := &Error{Path: "/x", Cause: cause, Detail: "it is odd", Err: unix.EIO}
		if got, want := e.Error(), "start /x: it is odd: input/output error"; got != want {
			t.Errorf("Error() = %q, want %q", got, want)
		}
		if name := cause.String(); name != strings.ToLower(name) || name == "" || cause != CauseUnknown && name == "unknown" {
			t.Errorf("cause %d is called %q", cause, name)
		}
		if hint := e.Hint(); (hint == "") != (cause == CauseUnknown || cause == CauseInvalid) {
			t.Errorf("cause %v: hint %q", cause, hint)
		}
	}
	if got, want := (&Error{Path: "/x", Err: unix.ENOENT}).Error(), "start /x: no such file or directory"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
}

func TestMayExecuteGoesByTheMode(t *testing.T) {
	linuxtest.NeedRoot(t, "to give a file to another user")
	path := script(t, "")
	const uid, gid = 1000, 2000
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		mode os.FileMode
		user Credential
		want bool
	}{
		{0o700, Credential{UID: uid, GID: gid}, true},
		{0o077, Credential{UID: uid, GID: gid}, false}, // the owner's bits count for the owner
		{0o070, Credential{UID: 7, GID: gid}, true},
		{0o070, Credential{UID: 7, GID: 7, Groups: []uint32{6, gid}}, true},
		{0o707, Credential{UID: 7, GID: 7, Groups: []uint32{6, gid}}, false},
		{0o007, Credential{UID: 7, GID: 7}, true},
		{0o770, Credential{UID: 7, GID: 7}, false},
		{0o700, Credential{UID: 0, GID: 0}, true},
		{0o644, Credential{UID: 0, GID: 0}, false},
	} {
		chmod(t, path, row.mode)
		if got := (&Cmd{Credential: &row.user}).mayExecute(path); got != row.want {
			t.Errorf("mode %v, %+v: %v, want %v", row.mode, row.user, got, row.want)
		}
	}
}
