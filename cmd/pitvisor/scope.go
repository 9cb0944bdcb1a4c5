package main

import "errors"

// enterScope gets an ordinary user a cgroup from systemd.
func enterScope() error { return errors.New("systemd was not asked for a scope") }
