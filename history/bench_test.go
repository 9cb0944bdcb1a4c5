package history

import (
	"fmt"
	"path/filepath"
	"testing"
)

// BenchmarkAppend writes batches of 100 records to a full file; the second kind checks the whole
// file before each, as is needed when another program has written to it.
func BenchmarkAppend(b *testing.B) {
	for _, checked := range []bool{false, true} {
		b.Run(fmt.Sprintf("checked=%v", checked), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "history.db")
			for first := 1; first <= 12_000; first += 4000 {
				writeLog(b, path, first, 4000)
			}
			f := boltFile{path: path}
			var batch []Record
			for i := range 100 {
				batch = append(batch, record(i))
			}
			for b.Loop() {
				if checked {
					f.good = stamp{}
				}
				if err := f.append(batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
