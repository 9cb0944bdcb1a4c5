package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/pitvisor/pitvisor/linuxtest/confine"
)

// kind is a container with a name and a word about it.
type kind struct {
	name, about string
	container   confine.Container
}

// kinds are what the command knows by name.
func kinds() []kind {
	docker := confine.Container{Cgroup: confine.CgroupReadOnly, Capabilities: confine.DockerCapabilities(), Refuse: confine.DockerRefusals(), Masked: true}
	writable := docker
	writable.Cgroup, writable.Refuse = confine.CgroupPrivate, nil
	return []kind{
		{"docker", "what docker run gives: cgroup2 read-only, fourteen capabilities, clone3 and namespaces refused", docker},
		{"writable", "the same with a writable cgroup2 in a cgroup namespace and no seccomp", writable},
		{"no-clone3", "everything is allowed but clone3, which does not exist (ENOSYS)", confine.Container{Refuse: confine.RefuseClone3()}},
		{"clone3-eperm", "everything is allowed but clone3, which is not permitted (EPERM)", confine.Container{Refuse: confine.DenyClone3()}},
		{privileged, "everything is allowed, as with docker run --privileged; not one of all", confine.Container{}},
	}
}

// privileged differs from the host in little.
const privileged = "privileged"

func runContainer(ctx context.Context, args []string) (bool, error) {
	var o siteOptions
	var names string
	var entry bool
	var binds listFlag
	f := flag.NewFlagSet("container", flag.ContinueOnError)
	f.StringVar(&names, "kind", "all", "kinds of containers, separated by commas, or all: "+kindNames())
	f.Var(&binds, "bind", "`path` of the host that the containers see at the same place, read-only; may be repeated")
	f.BoolVar(&entry, "entry", false, "the program is PID 1 itself, without an init above it")
	o.define(f)
	if err := o.parse(f, args); err != nil {
		return false, err
	}
	if os.Geteuid() != 0 {
		return false, errors.New("a container is made by root: run this as root")
	}
	sites, err := containerSites(names, func(c *confine.Container) {
		c.Entry = entry
		for _, path := range binds {
			c.Binds = append(c.Binds, confine.Bind{From: path, To: path})
		}
	})
	if err != nil {
		return false, err
	}
	return o.visit(ctx, sites)
}

func kindNames() string {
	var all []string
	for _, k := range kinds() {
		all = append(all, k.name)
	}
	return strings.Join(all, ", ")
}

// chosen splits the names of kinds.
func chosen(names string) []string {
	if names != "all" {
		return list(names)
	}
	all := strings.Split(kindNames(), ", ")
	return slices.DeleteFunc(all, func(name string) bool { return name == privileged })
}

// containerSites are the containers of the given names, changed.
func containerSites(names string, change func(*confine.Container)) ([]site, error) {
	var sites []site
	for _, name := range chosen(names) {
		i := slices.IndexFunc(kinds(), func(k kind) bool { return k.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no kind of container %q: want some of %s, or all", name, kindNames())
		}
		k := kinds()[i]
		change(&k.container)
		sites = append(sites, containerSite(k))
	}
	return sites, nil
}

func containerSite(k kind) site {
	run := func(ctx context.Context, files string, p confine.Program, out io.Writer) (confine.Result, error) {
		c := k.container
		c.Binds = append(slices.Clone(c.Binds), confine.Bind{From: files, To: "/src"})
		if p.Dir == "" {
			c.Binds = append(c.Binds, confine.Bind{From: p.Args[0], To: p.Args[0]}) // it may be below /tmp
		}
		p.Env = append([]string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin",
			"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh", "LANG=C.UTF-8", "TERM=dumb", "container=linuxtest",
		}, p.Env...)
		return c.Run(ctx, p, out)
	}
	return site{lane: "container", name: k.name, at: "/src", run: run}
}
