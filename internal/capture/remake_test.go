package capture

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/internal/logfile"
	"github.com/pitvisor/pitvisor/linuxtest"
)

// Somebody removes the directories to get room. Workers start all the same, in either way, and
// what they print is followed, kept and held as before.
func TestDirectoriesThatWereRemoved(t *testing.T) {
	for name, what := range map[string]string{"of the pool": "1/web", "of the run": "1", "of all runs": ""} {
		for _, piped := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", piped"}[piped], func(t *testing.T) {
				root := filepath.Join(t.TempDir(), "logs")
				run := filepath.Join(root, runID(1))
				var warned atomic.Int32
				s := open(t, Options{Dir: run, Name: "shop", Warn: func(error) { warned.Add(1) }})
				begin := s.Start
				if piped {
					begin = s.StartPiped
				}
				first, err := begin("web/0", "web", 0, 1)
				if err != nil {
					t.Fatal(err)
				}
				write(t, first.Stdout, "old\n")
				_, _ = first.Stdout.Close(), first.Stderr.Close() // a second time, perhaps
				first.Done()
				gone := filepath.Join(root, map[string]string{"1/web": runID(1) + "/web", "1": runID(1), "": ""}[what])
				linuxtest.Wait(t, soon, func() (bool, string) { // the store may be writing a last file there
					err := os.RemoveAll(gone)
					return err == nil, fmt.Sprint(err)
				})
				seen := make(chan string, 10)
				ended := make(chan error, 1)
				go func() { ended <- s.Follow(t.Context(), func(l Line) { seen <- l.Worker + " " + string(l.Text) }) }()
				for _, worker := range []struct {
					name, pool string
					slot       int
				}{{"web/0", "web", 0}, {"web/1", "web", 1}, {"new/0", "new", 0}} {
					st, err := begin(worker.name, worker.pool, worker.slot, 2)
					if err != nil {
						t.Fatal(err)
					}
					write(t, st.Stdout, "text\n")
					select {
					case got := <-seen:
						if got != worker.name+" text" {
							t.Errorf("followed %q, want %q", got, worker.name+" text")
						}
					case <-time.After(soon):
						t.Fatalf("no line of %s", worker.name)
					}
					_, _ = st.Stdout.Close(), st.Stderr.Close() // a second time, perhaps
					st.Done()
				}
				r := logfile.OpenRun(root, runID(1))
				if !r.Live || r.Name != "shop" {
					t.Errorf("the run is %+v, want a live one of shop", r)
				}
				if n, err := Prune(root, 0); n != 0 || err != nil {
					t.Errorf("Prune = %d, %v; want 0", n, err)
				}
				m := logfile.NewMerger(logfile.Query{Tail: -1}, func(err error) { t.Error(err) })
				m.Add(logfile.Source{Pool: "web", Stream: Stdout}, filepath.Join(run, "web"))
				var lines []string
				m.Drain(true, func(it logfile.Item) bool {
					if len(it.Text) > 0 {
						lines = append(lines, string(it.Text))
					}
					if age := time.Since(it.At); age < 0 || age > time.Hour {
						t.Errorf("%q is of %v", it.Text, it.At)
					}
					return true
				})
				if len(lines) != 1 || lines[0] != "text" {
					t.Errorf("read %q, want what came after", lines)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if warned.Load() == 0 {
					t.Error("nobody was told")
				}
			})
		}
	}
}
