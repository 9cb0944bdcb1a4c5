package spawn

import (
	"runtime"
	"strings"
	"testing"
)

func TestInterpreterOfRealPrograms(t *testing.T) {
	if runtime.GOARCH == "amd64" {
		got, err := interpreter("/bin/sh")
		if err != nil || !strings.HasPrefix(got, "/lib64/ld-linux-x86-64") {
			t.Errorf("interpreter(/bin/sh) = %q, %v", got, err)
		}
	}
	for text, want := range map[string]string{
		"#!/bin/sh\n": "/bin/sh", "#! \t/usr/bin/env python\nx": "/usr/bin/env", "#!/a\x00b": "/a", "#!": "", "": "",
		"#!" + strings.Repeat("y", 500): strings.Repeat("y", 254), "\x7fELF": "", elfHeader(): "",
		elfHeader()[:64] + "\x03\x00\x00\x00" + strings.Repeat("\xff", 52): "",
	} {
		got, _ := interpreter(script(t, text)) // of a broken file any error will do
		if got != want {
			t.Errorf("interpreter of %.20q = %q, want %q", text, got, want)
		}
	}
}
