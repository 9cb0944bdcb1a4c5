package pressure

import (
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestMain(m *testing.M) { linuxtest.Main(m, nil) }
