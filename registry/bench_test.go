package registry

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// BenchmarkSweep200 sweeps 200 stale runs with 5 processes each, at various numbers of runs at a time;
// 0 is the default. It says how long the sweep took, and when the first run was gone.
func BenchmarkSweep200(b *testing.B) {
	for _, parallel := range []int{0, 1, 2, 4, 8, 16, 32, 64, 200} {
		b.Run(fmt.Sprintf("parallel=%d", parallel), func(b *testing.B) {
			r := newRoot(b)
			var first, total time.Duration
			for range b.N {
				b.StopTimer()
				o := startOwner(b, r, 200, 5, sleeper...)
				o.crash(b)
				begin := time.Now()
				firstSeen := time.Duration(0)
				b.StartTimer()
				got := mustSweep(b, r, SweepOptions{Parallel: parallel, Observe: func(SweepEvent) {
					if firstSeen == 0 {
						firstSeen = time.Since(begin)
					}
				}})
				b.StopTimer()
				if got.Swept != 200 || got.Processes != 1000 {
					b.Fatalf("Sweep() = %d runs with %d processes, want 200 with 1,000", got.Swept, got.Processes)
				}
				first += firstSeen
				total += got.Elapsed
			}
			b.ReportMetric(float64(total.Microseconds())/1000/float64(b.N), "ms/sweep")
			b.ReportMetric(float64(first.Microseconds())/1000/float64(b.N), "ms/first")
		})
	}
}

// BenchmarkCreateClose makes and ends an empty run.
func BenchmarkCreateClose(b *testing.B) {
	r := newRoot(b)
	for b.Loop() {
		run, err := r.Create(Spec{Kind: "up", Name: "bench", Version: "1"})
		if err != nil {
			b.Fatal(err)
		}
		if err := run.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkList describes one run with 1,000 workers.
func BenchmarkList(b *testing.B) {
	r := newRoot(b)
	o := startOwner(b, r, 1, 1000, sleeper...)
	for b.Loop() {
		if got := mustList(b, r)[0].Processes; got != 1000 {
			b.Fatalf("%d processes, want 1,000", got)
		}
	}
	o.close(b)
}
