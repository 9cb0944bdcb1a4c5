package resource

import (
	"strconv"
	"strings"

	"github.com/pitvisor/pitvisor/cgroup"
)

// content is the numbers of a file, by their keys.
type content struct {
	numbers map[string]uint64
	err     error
}

// read reads a file of statistics of the cgroup.
func read(d *cgroup.Dir, file string) content {
	b, err := d.ReadFile(file)
	if err != nil {
		return content{err: err}
	}
	return content{numbers: parseStat(file, string(b))}
}

// parseStat reads the kernel's forms: keys and values, one number under the key "",
// disks added up, or the totals of pressure. What is no number is left out.
func parseStat(file, text string) map[string]uint64 {
	switch {
	case file == "io.stat":
		return parseDisks(text)
	case strings.HasSuffix(file, ".pressure"):
		return parsePressure(text)
	}
	numbers := map[string]uint64{}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			key, value = "", key
		}
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			numbers[key] = n
		}
	}
	return numbers
}

// parseDisks adds up "8:0 rbytes=180224 wbytes=0 rios=3 wios=0 dbytes=0 dios=0" over
// the lines. No line at all is no use of any disk. Some kernels print the numbers of
// a disk without anything behind them, not even an end of line.
func parseDisks(text string) map[string]uint64 {
	sums := map[string]uint64{"rbytes": 0, "wbytes": 0, "rios": 0, "wios": 0}
	for word := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(word, "=")
		if _, wanted := sums[key]; !wanted {
			continue
		}
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			sums[key] += n
		}
	}
	return sums
}

// parsePressure reads "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234".
func parsePressure(text string) map[string]uint64 {
	totals := map[string]uint64{}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		for _, word := range words {
			if value, ok := strings.CutPrefix(word, "total="); ok {
				if n, err := strconv.ParseUint(value, 10, 64); err == nil {
					totals[words[0]] = n
				}
			}
		}
	}
	return totals
}
