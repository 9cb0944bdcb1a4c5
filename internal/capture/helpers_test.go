package capture

import (
	"path/filepath"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

func helperModes() linuxtest.Modes {
	return linuxtest.Modes{
		"tmpfs-trim":        onTmpfs(func(dir string) error { return trimScenario(filepath.Join(dir, "run"), false) }),
		"tmpfs-no-inodes":   onTmpfs(fullDisk),
		"tmpfs-no-blocks":   onTmpfs(noRoomForOutput),
		"tmpfs-read-only":   onTmpfs(readOnly),
		"limit-watches":     mode(limitWatches),
		"limit-instances":   mode(limitInstances),
		"limit-files":       mode(limitFiles),
		"own-flood":         mode(ownFlood),
		"bench-write":       benchWrite,
		"rotate-flood":      mode(rotateFlood),
		"tmpfs-rotate-full": onTmpfs(rotateFullDisk),
		"own-piped-flood":   mode(ownPipedFlood),
		"tmpfs-piped-full":  onTmpfs(pipedFullDisk),
		"tmpfs-rotate":      onTmpfs(func(dir string) error { return rotateScenario(filepath.Join(dir, "run")) }),
	}
}

// onDisk returns how many bytes the file takes on disk.
func onDisk(tb testing.TB, path string) int64 {
	tb.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		tb.Fatalf("stat %s: %v", path, err)
	}
	return st.Blocks * 512
}
