package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pitvisor/pitvisor/linuxtest/vm"
)

// only says on which kernels a package is tested; one that it does not have is
// tested on all.
type only map[string][]string

// readOnly reads KERNELS=PACKAGES, each a list with commas.
func readOnly(ctx context.Context, texts []string) (only, error) {
	o := only{}
	for _, text := range texts {
		kernels, patterns, ok := strings.Cut(text, "=")
		if !ok || kernels == "" || patterns == "" {
			return nil, fmt.Errorf("-only %q is not of the form KERNELS=PACKAGES", text)
		}
		for _, name := range list(kernels) {
			if err := vm.Known(name); err != nil {
				return nil, fmt.Errorf("-only %s: %w", text, err)
			}
		}
		paths, err := vm.ImportPaths(ctx, list(patterns)...)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			o[path] = list(kernels)
		}
	}
	return o, nil
}

// choose returns the programs for a kernel, and the names of the others.
func (o only) choose(all []vm.Program, kernel string) (programs []vm.Program, dropped []string) {
	for _, p := range all {
		if kernels, limited := o[p.Name]; limited && !slices.Contains(kernels, kernel) {
			dropped = append(dropped, p.Name)
			continue
		}
		programs = append(programs, p)
	}
	return programs, dropped
}
