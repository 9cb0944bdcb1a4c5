package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest/vm"
)

func TestOnlyChoosesPackagesByKernel(t *testing.T) {
	const self, guest = "github.com/pitvisor/pitvisor/cmd/pitvisor-linuxtest", "github.com/pitvisor/pitvisor/cmd/pitvisor-linuxtest/testdata/guest"
	o, err := readOnly(t.Context(), []string{"5.10,newest=./testdata/guest"})
	if err != nil {
		t.Fatal(err)
	}
	all := []vm.Program{{Name: self}, {Name: guest}}
	for kernel, want := range map[string][]string{"5.10": nil, "6.1": {guest}, "newest": nil} {
		programs, dropped := o.choose(all, kernel)
		if !slices.Equal(dropped, want) || len(programs) != len(all)-len(want) || programs[0].Name != self {
			t.Errorf("on %s: %d programs, dropped %q, want %q", kernel, len(programs), dropped, want)
		}
	}
	l := &lane{only: o, payload: &vm.Payload{Programs: all}}
	if got := l.order([]string{"6.1", "6.12", "5.10", "newest"}); !slices.Equal(got, []int{2, 3, 0, 1}) {
		t.Errorf("order %v, want first those with most programs", got)
	}
	for text, want := range map[string]string{"6.1": "KERNELS=PACKAGES", "=./x": "KERNELS=PACKAGES", "6.2=.": `no kernel "6.2"`, "6.1=./nothing": "nothing"} {
		if _, err := readOnly(t.Context(), []string{text}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("readOnly(%q) = %v, want %q", text, err, want)
		}
	}
}
