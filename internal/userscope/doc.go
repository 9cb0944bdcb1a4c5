// Package userscope gets the calling process a delegated cgroup from systemd: a
// transient scope that systemd makes for it, moves it into, and removes when it is
// empty. It is how an ordinary user comes to a cgroup on a host with systemd.
//
// [Enter] asks over the socket that only the user's systemd listens on, or else over
// the user's bus. The process is not named by a number: systemd asks the kernel who
// has sent the request. Whether it has been moved, and may make cgroups there, is
// not believed but looked at.
//
// It works with systemd 239 and later on hosts where systemd manages cgroup v2.
//
// It is not for a supervisor that lives for long: D-Bus is parsed here, and whatever
// the bus carries. It is not for what is started in the scope, and not for units
// other than this one.
package userscope
