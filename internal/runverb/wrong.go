package runverb

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// WhyWrong says what a flag's value is not, to go on after the flag and the value.
// pflag itself names the function that could not read it.
func WhyWrong(err *pflag.InvalidValueError) error {
	kinds := map[string]string{
		"int": "a whole number", "uint64": "a whole number, 0 or more",
		"bool": "true or false", "duration": "a time such as 10s or 1m30s",
	}
	kind := kinds[err.GetFlag().Value.Type()]
	why := errors.Unwrap(err)
	var number *strconv.NumError
	switch {
	case kind == "", !errors.As(why, &number) && !strings.HasPrefix(why.Error(), "time: "):
		return fmt.Errorf("is wrong: %w", why)
	case errors.Is(why, strconv.ErrRange):
		return fmt.Errorf("is out of range: must be %s", kind)
	}
	return fmt.Errorf("is not %s", kind)
}
