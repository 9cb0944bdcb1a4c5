package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// summary is a row of numbers in short.
type summary struct {
	N                int
	Median, Min, Max float64
}

// summarize returns the median and the spread. Values that were not measured (NaN) are left out; of none at all the
// median is NaN.
func summarize(values []float64) summary {
	sorted := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	slices.Sort(sorted)
	n := len(sorted)
	if n == 0 {
		return summary{Median: math.NaN(), Min: math.NaN(), Max: math.NaN()}
	}
	s := summary{N: n, Median: sorted[n/2], Min: sorted[0], Max: sorted[n-1]}
	if n%2 == 0 {
		s.Median = (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return s
}

// ratios divides round by round: rounds of one machine minute are comparable, rounds of different minutes are not. A
// round that either side lacks gives NaN.
func ratios(values, base []float64) []float64 {
	out := make([]float64, min(len(values), len(base)))
	for i := range out {
		out[i] = math.NaN()
		if base[i] > 0 {
			out[i] = values[i] / base[i]
		}
	}
	return out
}

// spread prints a summary as "median [min-max]".
func (s summary) spread(format string) string {
	if s.N == 0 {
		return "-"
	}
	if s.N == 1 {
		return fmt.Sprintf(format, s.Median)
	}
	return fmt.Sprintf(format+" ["+format+"-"+format+"]", s.Median, s.Min, s.Max)
}

// allowance is what a measured ratio may lie above its target before that counts as missed: medians of few rounds are
// good to about 15 % on a small machine.
const allowance = 1.15

// atMost judges a noisy measure against its target.
func atMost(s summary, target float64) string {
	switch {
	case s.N == 0:
		return verdictNone
	case s.Median <= target:
		return verdictMet
	case s.Median <= target*allowance:
		return verdictNear
	}
	return verdictMissed
}

// exactly judges what has no noise.
func exactly(ok bool) string {
	if ok {
		return verdictMet
	}
	return verdictMissed
}

const (
	verdictMet    = "met"
	verdictNear   = "met within the 15 % allowance"
	verdictMissed = "MISSED"
	verdictNone   = "not measured"
)

func milliseconds(d time.Duration) float64 {
	return float64(d.Nanoseconds()) / 1e6
}

const mebibyte = 1 << 20
