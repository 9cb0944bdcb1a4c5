package probe

import (
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/spawn"
)

func TestMain(m *testing.M) {
	spawn.HelperMain()
	linuxtest.Main(m, helperModes())
}
