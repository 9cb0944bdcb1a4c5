package main

import (
	"math"
	"slices"
	"testing"
)

func TestSummarizeGivesMedianAndSpread(t *testing.T) {
	for _, test := range []struct {
		name   string
		values []float64
		want   summary
	}{
		{"odd", []float64{3, 1, 2}, summary{3, 2, 1, 3}},
		{"even", []float64{4, 1, 2, 3}, summary{4, 2.5, 1, 4}},
		{"one", []float64{7}, summary{1, 7, 7, 7}},
		{"a failed round is left out", []float64{math.NaN(), 5, 1}, summary{2, 3, 1, 5}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := slices.Clone(test.values)
			if got := summarize(test.values); got != test.want {
				t.Errorf("summarize(%v) = %v, want %v", test.values, got, test.want)
			}
			if !slices.EqualFunc(before, test.values, same) {
				t.Errorf("summarize changed its input to %v, want %v", test.values, before)
			}
		})
	}
}

func TestSummarizeOfNothingIsNotANumber(t *testing.T) {
	got := summarize([]float64{math.NaN()})
	if got.N != 0 || !math.IsNaN(got.Median) {
		t.Errorf("summarize(NaN) = %v, want no median", got)
	}
	if text := got.spread("%.1f"); text != "-" {
		t.Errorf("spread = %q, want a dash", text)
	}
	if verdict := atMost(got, 1); verdict != verdictNone {
		t.Errorf("atMost = %q, want %q", verdict, verdictNone)
	}
}

func TestRatiosCompareTheSameRound(t *testing.T) {
	nan := math.NaN()
	got := ratios([]float64{2, 9, nan, 4}, []float64{1, nan, 3, 8, 5})
	want := []float64{2, nan, nan, 0.5}
	if !slices.EqualFunc(got, want, same) {
		t.Errorf("ratios = %v, want %v", got, want)
	}
}

func same(x, y float64) bool {
	return x == y || math.IsNaN(x) && math.IsNaN(y)
}

func TestVerdictsAllowFifteenPercent(t *testing.T) {
	for _, test := range []struct {
		median float64
		want   string
	}{{1.10, verdictMet}, {1.11, verdictNear}, {1.26, verdictNear}, {1.27, verdictMissed}} {
		if got := atMost(summary{N: 1, Median: test.median}, 1.10); got != test.want {
			t.Errorf("atMost(%v, 1.10) = %q, want %q", test.median, got, test.want)
		}
	}
}

func TestSpreadShowsOneValueAlone(t *testing.T) {
	if got, want := summarize([]float64{2}).spread("%.1f"), "2.0"; got != want {
		t.Errorf("spread = %q, want %q", got, want)
	}
	if got, want := summarize([]float64{1, 2, 4}).spread("%.0f"), "2 [1-4]"; got != want {
		t.Errorf("spread = %q, want %q", got, want)
	}
}

func TestSetEnvReplacesInsteadOfAppending(t *testing.T) {
	got := setEnv([]string{"PATH=/a", "HOME=/h", "PATHS=x"}, []string{"PATH=/b", "NEW=1"})
	want := []string{"HOME=/h", "PATHS=x", "PATH=/b", "NEW=1"}
	if !slices.Equal(got, want) {
		t.Errorf("setEnv = %v, want %v", got, want)
	}
}

func TestFieldReadsWholeNames(t *testing.T) {
	text := []byte("Pss_Anon: 7 kB\nPss:   12 kB\nnonvoluntary_ctxt_switches:\t3\nvoluntary_ctxt_switches:\t5\nBad: x\n")
	for _, test := range []struct {
		name string
		want int64
	}{{"Pss:", 12}, {"voluntary_ctxt_switches:", 5}, {"Bad:", 0}, {"None:", 0}} {
		if got := field(text, test.name); got != test.want {
			t.Errorf("field(%q) = %d, want %d", test.name, got, test.want)
		}
	}
}

func TestRowsAreSortedByNumber(t *testing.T) {
	for _, test := range []struct {
		id   string
		want int
	}{{"3", 3}, {"13", 13}, {"sweep", 1000}, {"", 1000}} {
		if got := (row{ID: test.id}).order(); got != test.want {
			t.Errorf("order of %q = %d, want %d", test.id, got, test.want)
		}
	}
}

func TestNearlyAll(t *testing.T) {
	var hundreds []float64
	for i := range 200 {
		hundreds = append(hundreds, float64((i*7)%200)) // 0 to 199, mixed
	}
	for want, values := range map[float64][]float64{197: hundreds, 3: {3}, 9: {1, 9, 2}} {
		if got := nearlyAll(values); got != want {
			t.Errorf("nearlyAll of %d values = %v, want %v", len(values), got, want)
		}
	}
	if got := nearlyAll(nil); !math.IsNaN(got) {
		t.Errorf("nearlyAll of none = %v, want NaN", got)
	}
}
