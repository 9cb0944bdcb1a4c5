package resource

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// FuzzParseLimit: a value is refused with one line that says why, or it is
// understood, and what is then written to the kernel means the same when it is read.
func FuzzParseLimit(f *testing.F) {
	for _, k := range Keys() {
		f.Add(k.Name, k.Example)
		f.Add(k.Name, "max")
	}
	for _, value := range []string{"", "\x00\n\xff", "50%", "1.5GiB", "default 100", "max 20000", "0-3,6 9", "8:0 rbps=1 wbps=max 8:16 riops=2", "/ 1M"} {
		f.Add("memory_max", value)
		f.Add("cpu.max", value)
		f.Add("AllowedCPUs", value)
		f.Add("io.max", value)
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		var l Limits
		err := ParseLimit(key, value, &l)
		if err != nil {
			var wrong *LimitError
			if !errors.As(err, &wrong) || len(err.Error()) > 2000 || strings.ContainsAny(err.Error(), "\x00\n") {
				t.Errorf("ParseLimit(%q, %q) = %q", key, value, err)
			}
			if !reflect.DeepEqual(l, Limits{}) {
				t.Errorf("ParseLimit(%q, %q) left %+v", key, value, l)
			}
			return
		}
		var again Limits
		for _, s := range l.settings() {
			if strings.ContainsAny(s.value, "\x00\n") {
				t.Errorf("ParseLimit(%q, %q) writes %q to %s", key, value, s.value, s.file)
			}
			if err := ParseLimit(s.file, s.value, &again); err != nil {
				t.Errorf("ParseLimit(%q, %q) writes %q to %s: %v", key, value, s.value, s.file, err)
			}
		}
		if !reflect.DeepEqual(l, again) {
			t.Errorf("ParseLimit(%q, %q) = %+v, and read again %+v", key, value, l, again)
		}
	})
}
