package registry

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/pidfd"
)

func TestMain(m *testing.M) {
	linuxtest.Main(m, linuxtest.Modes{
		"owner":      modeOwner,
		"stuck":      modeStuck,
		"sweeper":    modeSweeper,
		"nobody":     modeNobody,
		"ids":        modeIDs,
		"fuse":       modeFuse,
		"slow-owner": modeSlowOwner,
	})
}

// sleeper is a worker that does nothing and costs little.
var sleeper = []string{"/bin/sleep", "600"}

// newRoot is a Registry in a cgroup of the test's own.
func newRoot(tb testing.TB) *Registry {
	tb.Helper()
	return openRoot(tb, linuxtest.Cgroup(tb))
}

func openRoot(tb testing.TB, path string) *Registry {
	tb.Helper()
	root, err := cgroup.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := root.Close(); err != nil {
			tb.Error(err)
		}
	})
	return New(root)
}

// owner is a helper process that owns runs.
type owner struct {
	*linuxtest.Process
	runs   []RunID
	stdin  *os.File
	stdout *os.File
}

// startOwner starts a process that makes so many runs with one pool of so many leaves each, starts argv
// in each leaf, and lives until it is killed or told to close.
func startOwner(tb testing.TB, r *Registry, runs, leaves int, argv ...string) *owner {
	tb.Helper()
	args := []string{r.Root().Path(), strconv.Itoa(runs), strconv.Itoa(leaves)}
	c := linuxtest.Command{Args: linuxtest.Helper(tb, "owner", append(args, argv...)...), Stderr: os.Stderr}
	return startOwnerAs(tb, c, runs)
}

func startOwnerAs(tb testing.TB, c linuxtest.Command, runs int) *owner {
	tb.Helper()
	stdin, toOwner := pipe(tb)
	fromOwner, stdout := pipe(tb)
	c.Stdin, c.Stdout = stdin, stdout
	o := &owner{Process: c.Start(tb), stdin: toOwner, stdout: fromOwner}
	_ = stdin.Close()
	_ = stdout.Close()
	lines := readLines(tb, fromOwner, runs)
	for _, line := range lines {
		id, err := ParseRunID(line)
		if err != nil {
			tb.Fatalf("owner said %q: %v", line, err)
		}
		o.runs = append(o.runs, id)
	}
	return o
}

// crash ends the owner as the kernel's OOM killer would.
func (o *owner) crash(tb testing.TB) { o.Kill(tb) }

// close lets the owner close its runs, and waits for its end.
func (o *owner) close(tb testing.TB) {
	tb.Helper()
	_ = o.stdin.Close()
	if status := o.Wait(tb, 20*time.Second); !status.Exited() || status.ExitStatus() != 0 {
		tb.Fatalf("owner ended with %#x, want exit 0", uint32(status))
	}
}

func pipe(tb testing.TB) (r, w *os.File) {
	tb.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = r.Close() // closed by most tests already
		_ = w.Close()
	})
	return r, w
}

// readLines reads so many lines, within 30 s.
func readLines(tb testing.TB, r *os.File, n int) []string {
	tb.Helper()
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		tb.Fatal(err)
	}
	lines := bufio.NewScanner(r)
	var got []string
	for len(got) < n && lines.Scan() {
		got = append(got, lines.Text())
	}
	if len(got) < n {
		tb.Fatalf("helper said %d lines, want %d: %q, %v", len(got), n, got, lines.Err())
	}
	return got
}

// fail is the end of a helper process.
func fail(err error) int {
	fmt.Fprintln(os.Stderr, "helper:", err)
	return 1
}

// modeOwner makes runs as startOwner says. Its runs' ids go to stdout; each line on stdin makes it sweep
// and print the result; the end of stdin makes it close its runs.
func modeOwner(args []string) int {
	root, err := cgroup.Open(args[0])
	if err != nil {
		return fail(err)
	}
	count, _ := strconv.Atoi(args[1])
	leaves, _ := strconv.Atoi(args[2])
	var runs []*Run
	for range count {
		run, err := ownRun(New(root), leaves, args[3:])
		if err != nil {
			return fail(err)
		}
		runs = append(runs, run)
	}
	for _, run := range runs {
		fmt.Println(run.ID())
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := printSweep(New(root)); err != nil {
			return fail(err)
		}
	}
	for _, run := range runs {
		if err := run.Close(context.Background()); err != nil {
			return fail(err)
		}
	}
	return 0
}

// ownRun makes a run with one pool of workers.
func ownRun(r *Registry, leaves int, argv []string) (*Run, error) {
	run, err := r.Create(Spec{Kind: "test", Name: "ours", Version: "0.1"})
	if err != nil || leaves == 0 {
		return run, err
	}
	pool, err := run.Dir().Create("web")
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	if err := SetPool(pool, Pool{Name: "web", Size: leaves}); err != nil {
		return nil, err
	}
	for slot := range leaves {
		if err := startWorker(pool, slot, argv); err != nil {
			return nil, err
		}
	}
	return run, nil
}

func startWorker(pool *cgroup.Dir, slot int, argv []string) error {
	leaf, err := pool.Create(fmt.Sprintf("%d.1", slot))
	if err != nil {
		return err
	}
	defer leaf.Close()
	record := Worker{Pool: "web", Slot: slot, Start: 1, State: "up", Ready: true, Started: time.Now()}
	if len(argv) > 0 {
		p, err := startIn(leaf, argv)
		if err != nil {
			return err
		}
		defer p.Close()
		if record.Process, err = p.Identity(); err != nil {
			return err
		}
	}
	return SetWorker(leaf, record)
}

// startIn starts a program in a cgroup. Nobody reaps it but the end of the caller.
func startIn(dir *cgroup.Dir, argv []string) (*pidfd.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	fd := -1
	pid, err := linuxtest.StartProcess(argv[0], argv, &syscall.ProcAttr{
		Env:   []string{},
		Files: []uintptr{null.Fd(), null.Fd(), 2},
		Sys:   &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: dir.FD(), PidFD: &fd, Setsid: true},
	})
	if err != nil {
		return nil, err
	}
	return pidfd.FromFD(fd, pid), nil
}

// startMember starts a process of the test in a cgroup below the root, made if need be.
func startMember(tb testing.TB, r *Registry, dir string, argv ...string) *linuxtest.Process {
	tb.Helper()
	path := r.Root().Path() + "/" + dir
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		tb.Fatal(err)
	}
	return linuxtest.Command{Args: argv, Cgroup: path}.Start(tb)
}

// mustSweep sweeps and fails the test on an error.
func mustSweep(tb testing.TB, r *Registry, o SweepOptions) SweepResult {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	result, err := r.Sweep(ctx, o)
	if err != nil {
		tb.Fatalf("Sweep() = %v", err)
	}
	return result
}

// mustList lists and fails the test on an error.
func mustList(tb testing.TB, r *Registry) []RunView {
	tb.Helper()
	views, err := r.List(context.Background())
	if err != nil {
		tb.Fatalf("List() = %v", err)
	}
	return views
}

// runDirs names what is left in the root.
func runDirs(tb testing.TB, r *Registry) []string {
	tb.Helper()
	names, err := r.Root().Children()
	if err != nil {
		tb.Fatal(err)
	}
	return names
}

// wantEvents compares the results of a sweep, by directory name.
func wantEvents(tb testing.TB, got SweepResult, want map[string]string) {
	tb.Helper()
	have := map[string]string{}
	for _, e := range got.Runs {
		have[e.Dir[strings.LastIndex(e.Dir, "/")+1:]] = e.Result
	}
	if fmt.Sprint(have) != fmt.Sprint(want) {
		tb.Errorf("Sweep() did %v, want %v", have, want)
	}
}

// modeSweeper sweeps once and prints the result.
func modeSweeper(args []string) int {
	root, err := cgroup.Open(args[0])
	if err != nil {
		return fail(err)
	}
	if err := printSweep(New(root)); err != nil {
		return fail(err)
	}
	return 0
}

func printSweep(r *Registry) error {
	result, err := r.Sweep(context.Background(), SweepOptions{PerRun: 5 * time.Second})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// sweepResult is a SweepResult as it was printed.
type sweepResult struct {
	Swept, Blocked, Foreign, Alive, Skipped, Processes int
	Runs                                               []struct{ Run, Dir, Result, Error string }
}

func parseSweep(tb testing.TB, line string) sweepResult {
	tb.Helper()
	var got sweepResult
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		tb.Fatalf("helper said %q: %v", line, err)
	}
	return got
}

// sweepFrom sweeps in a helper process that runs in the given cgroup, if any.
func sweepFrom(tb testing.TB, r *Registry, cgroupPath string) sweepResult {
	tb.Helper()
	c := linuxtest.Command{Args: linuxtest.Helper(tb, "sweeper", r.Root().Path()), Cgroup: cgroupPath, Stderr: os.Stderr}
	return parseSweep(tb, c.Output(tb, 60*time.Second))
}

// sweep makes the owner sweep.
func (o *owner) sweep(tb testing.TB) sweepResult {
	tb.Helper()
	if _, err := o.stdin.WriteString("sweep\n"); err != nil {
		tb.Fatal(err)
	}
	return parseSweep(tb, readLines(tb, o.stdout, 1)[0])
}

// modeNobody gives up root for good and goes on as another mode.
func modeNobody(args []string) int {
	const nobody = 65534
	err := errors.Join(syscall.Setgroups(nil), syscall.Setresgid(nobody, nobody, nobody), syscall.Setresuid(nobody, nobody, nobody))
	if err != nil {
		return fail(err)
	}
	switch args[0] {
	case "owner":
		return modeOwner(args[1:])
	case "sweeper":
		return modeSweeper(args[1:])
	}
	return fail(fmt.Errorf("no mode %q", args[0]))
}
