package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// configRisk tells who else can change what this supervisor obeys, and how to stop
// that; "" if nobody can.
func configRisk(path string) string {
	st, err := os.Stat(path)
	if err != nil || !st.Mode().IsRegular() {
		return ""
	}
	owner := int(st.Sys().(*syscall.Stat_t).Uid)
	loose := fs.FileMode(0o002)
	us := "this supervisor"
	if os.Geteuid() == 0 {
		loose = 0o022 // a group of ordinary users is too many for root
		us = "root"
	}
	switch {
	case owner != 0 && owner != os.Geteuid():
		return fmt.Sprintf("%s belongs to %s, who can have %s start anything: chown %s %[1]s", path, userName(owner), us, userWord(os.Geteuid()))
	case st.Mode()&loose&0o002 != 0:
		return fmt.Sprintf("%s has mode %04o: everybody can have %s start anything: chmod go-w %[1]s", path, st.Mode().Perm(), us)
	case st.Mode()&loose != 0 && st.Sys().(*syscall.Stat_t).Gid != 0:
		return fmt.Sprintf("%s has mode %04o: its group can have %s start anything: chmod go-w %[1]s", path, st.Mode().Perm(), us)
	}
	return ""
}

// letRead is the cure for a configuration that may not be read.
func letRead(path string) string {
	us := userWord(os.Geteuid())
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Sprintf("user %s may not enter %s: chmod o+x %[2]s", us, filepath.Dir(path))
	}
	return fmt.Sprintf("it belongs to %s and has mode %04o, and is to be read by user %s: chown %[3]s %s",
		userName(int(st.Sys().(*syscall.Stat_t).Uid)), st.Mode().Perm(), us, path)
}

// userWord is a user in a command line, userName in a sentence.
func userWord(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}

func userName(uid int) string {
	if word := userWord(uid); word != strconv.Itoa(uid) {
		return word
	}
	return fmt.Sprintf("user %d", uid)
}
