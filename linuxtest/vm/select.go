package vm

import "context"

// ImportPaths are the packages that patterns for the go command name, as
// [Program.Name] has them.
func ImportPaths(ctx context.Context, patterns ...string) ([]string, error) {
	listed, err := listPackages(ctx, patterns)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, p := range listed {
		paths = append(paths, p.ImportPath)
	}
	return paths, nil
}
