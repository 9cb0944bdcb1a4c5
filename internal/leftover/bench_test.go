package leftover

import (
	"strconv"
	"testing"

	"github.com/pitvisor/pitvisor/pidfd"
)

// What an ordinary run pays that has left a daemon, and what a fork bomb costs.
func BenchmarkList(b *testing.B) {
	for _, n := range []int{1, 20, 5000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			r := newRun(b)
			_, c, out := r.command("setsid-storm", strconv.Itoa(n))
			out.word("ready")
			c.Leader = pidfd.Identity{}
			for b.Loop() {
				if found, err := List(r.dir, c); err != nil || found.Total != n+1 {
					b.Fatalf("List counts %d, %v, want %d", found.Total, err, n+1)
				}
			}
		})
	}
}
