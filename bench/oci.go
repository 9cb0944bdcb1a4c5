package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// container is an OCI runtime's `run` of the container that its own `spec` describes.
func container(name, binary string, spec ociSpec, mount string) wrapper {
	return wrapper{
		name: name, kind: kindPeer, stage: stageUnified, closed: true,
		argv: func(c *cell, command []string) ([]string, error) {
			cgroup := strings.TrimPrefix(c.root.path, mount) + "/container"
			if err := spec.bundle(c.dir, command, cgroup); err != nil {
				return nil, err
			}
			return []string{binary, "--root", filepath.Join(c.dir, "state"), "run", "--bundle", c.dir, "bench"}, nil
		},
	}
}

// ociSpec is a config.json.
type ociSpec map[string]any

// newOCISpec asks a runtime for the container that it takes for the usual one, and takes two things out of it: the
// terminal, which is not there, and the rules for devices, which not every root may set.
func newOCISpec(ctx context.Context, binary, dir string) (ociSpec, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := runIn(ctx, dir, binary, "spec"); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, err
	}
	return parseOCISpec(text)
}

func parseOCISpec(text []byte) (ociSpec, error) {
	var spec ociSpec
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, fmt.Errorf("read config.json: %w", err)
	}
	process, isProcess := spec["process"].(map[string]any)
	linux, isLinux := spec["linux"].(map[string]any)
	if !isProcess || !isLinux {
		return nil, errors.New("read config.json: it has no process or no linux")
	}
	process["terminal"] = false
	delete(linux, "resources")
	return spec, nil
}

// bundle writes the container of one command, which must be a static program: nothing else is in its root.
func (s ociSpec) bundle(dir string, command []string, cgroup string) error {
	root := filepath.Join(dir, "rootfs")
	program := filepath.Join(root, filepath.Base(command[0]))
	if _, err := os.Stat(program); err != nil {
		for _, name := range []string{"proc", "dev", "sys"} {
			if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
				return err
			}
		}
		text, err := os.ReadFile(command[0])
		if err != nil {
			return err
		}
		if err := os.WriteFile(program, text, 0o755); err != nil {
			return err
		}
	}
	s["process"].(map[string]any)["args"] = append([]string{"/" + filepath.Base(command[0])}, command[1:]...)
	s["linux"].(map[string]any)["cgroupsPath"] = cgroup
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), text, 0o644)
}
