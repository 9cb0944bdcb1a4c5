package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	keyring       = "/usr/share/keyrings/debian-archive-keyring.gpg"
	defaultMirror = "http://deb.debian.org/debian"
	oldMirror     = "http://archive.debian.org/debian" // where suites go to rest
)

// suite is a view of one Debian suite that shares nothing with the host's apt but
// the mirror and the proxy.
type suite struct {
	name string
	dir  string // everything that apt keeps
}

// openSuite prepares the view and fetches the lists of packages.
func openSuite(ctx context.Context, dir, name string) (*suite, error) {
	if _, err := os.Stat(keyring); err != nil {
		return nil, fmt.Errorf("the keys of Debian's archive are not here, install the package debian-archive-keyring: %w", err)
	}
	s := &suite{name: name, dir: dir}
	for _, sub := range []string{"lists/partial", "archives/partial", "none"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	mirror, network, err := hostApt(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.path("status"), nil, 0o644); err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.path("apt.conf"), []byte(network+s.settings()), 0o644); err != nil {
		return nil, err
	}
	var failed error
	for _, m := range []string{mirror, oldMirror} {
		line := fmt.Sprintf("deb [signed-by=%s] %s %s main\n", keyring, m, name)
		if err := os.WriteFile(s.path("sources.list"), []byte(line), 0o644); err != nil {
			return nil, err
		}
		// Without --error-on a suite that is not there is only a warning.
		if _, err = s.run(ctx, "", "apt-get", "update", "-q", "--error-on=any"); err == nil {
			return s, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, failed
}

func (s *suite) path(name string) string { return filepath.Join(s.dir, name) }

// settings points apt at the private directory and away from the host's hooks.
func (s *suite) settings() string {
	var b strings.Builder
	for key, value := range map[string]string{
		"Dir::State":                 s.dir,
		"Dir::State::Lists":          s.path("lists"),
		"Dir::State::status":         s.path("status"),
		"Dir::Cache":                 s.dir,
		"Dir::Cache::archives":       s.path("archives"),
		"Dir::Cache::pkgcache":       "",
		"Dir::Cache::srcpkgcache":    "",
		"Dir::Etc::main":             "/dev/null",
		"Dir::Etc::parts":            s.path("none"),
		"Dir::Etc::sourcelist":       s.path("sources.list"),
		"Dir::Etc::sourceparts":      s.path("none"),
		"Dir::Etc::preferences":      "/dev/null",
		"Dir::Etc::preferencesparts": s.path("none"),
		"Dir::Log":                   s.dir,
		"APT::Sandbox::User":         "root",
		"APT::Architecture":          "amd64",
		"Acquire::GzipIndexes":       "true",
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled":       "false",
		"Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
	} {
		fmt.Fprintf(&b, "%s %q;\n", key, value)
	}
	b.WriteString("Acquire::Languages { \"none\"; };\n")
	return b.String()
}

// hostApt reads from the host's apt where Debian is to be had, and how the
// network is reached.
func hostApt(ctx context.Context) (mirror, network string, err error) {
	out, err := output(exec.CommandContext(ctx, "apt-config", "dump"))
	if err != nil {
		return "", "", err
	}
	var b strings.Builder
	for line := range strings.Lines(out) {
		for _, part := range []string{"http", "https", "Retries", "ForceIPv4", "ForceIPv6", "Check-"} {
			if strings.HasPrefix(line, "Acquire::"+part) {
				b.WriteString(line)
				break
			}
		}
	}
	out, err = output(exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(RELEASE) $(REPO_URI)"))
	if err != nil {
		return "", "", err
	}
	return pickMirror(out), b.String(), nil
}

// pickMirror finds the mirror of Debian proper among the host's sources.
func pickMirror(targets string) string {
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] != "Debian" || f[1] != "main" || strings.Contains(f[2], "-") {
			continue
		}
		uri := strings.TrimSuffix(f[3], "/")
		if strings.HasSuffix(uri, "/debian") {
			return uri
		}
	}
	return defaultMirror
}

// run runs one of apt's programs on this suite.
func (s *suite) run(ctx context.Context, dir string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+s.path("apt.conf"), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	return output(cmd)
}

// depends lists what a package depends on, without the alternatives' second choices.
func (s *suite) depends(ctx context.Context, pkg string) ([]string, error) {
	out, err := s.run(ctx, "", "apt-cache", "depends", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances", pkg)
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(out) {
		_, name, ok := strings.Cut(line, "Depends: ")
		if ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return names, nil
}

// version is that of the package which apt would take.
func (s *suite) version(ctx context.Context, pkg string) (string, error) {
	out, err := s.run(ctx, "", "apt-cache", "show", "--no-all-versions", pkg)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(line, "Version: "); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", fmt.Errorf("apt-cache show %s names no version", pkg)
}

// unpack downloads packages and unpacks them below dir, as files without their
// maintainers' scripts. apt has checked their hashes.
func (s *suite) unpack(ctx context.Context, dir string, packages ...string) error {
	tmp, err := os.MkdirTemp(s.dir, "download-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // below the cache, which is swept
	if _, err := s.run(ctx, tmp, append([]string{"apt-get", "download", "-q"}, packages...)...); err != nil {
		return err
	}
	return unpackAll(ctx, tmp, dir)
}

// resolve names packages and all that they depend on, as name=version.
func (s *suite) resolve(ctx context.Context, packages ...string) ([]string, error) {
	out, err := s.run(ctx, "", append([]string{"apt-get", "install", "-s", "-q", "--no-install-recommends"}, packages...)...)
	if err != nil {
		return nil, err
	}
	var all []string
	for line := range strings.Lines(out) {
		// Inst dash (0.5.12-12 Debian:13.1/stable [amd64])
		f := strings.Fields(line)
		if len(f) > 2 && f[0] == "Inst" {
			all = append(all, f[1]+"="+strings.TrimPrefix(f[2], "("))
		}
	}
	slices.Sort(all)
	return all, nil
}

func unpackAll(ctx context.Context, from, to string) error {
	debs, err := filepath.Glob(filepath.Join(from, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if _, err := output(exec.CommandContext(ctx, "dpkg-deb", "-x", deb, to)); err != nil {
			return err
		}
		if err := os.Remove(deb); err != nil {
			return err
		}
	}
	return nil
}

// output runs a program and returns what it wrote; the error carries the end of
// its stderr.
func output(cmd *exec.Cmd) (string, error) {
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &bad
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args[:min(len(cmd.Args), 4)], " "), err, lastLines(bad.String(), 5))
	}
	return out.String(), nil
}

// lastLines are the last n lines of a text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
