package resource

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/internal/units"
)

// unlimited says whether the value lifts a limit: the kernel's word or systemd's.
func unlimited(value string) bool { return value == "max" || value == "infinity" }

func memory(least int64, field func(*Limits) *int64) func(string, *Limits) error {
	return func(value string, l *Limits) error {
		n, err := size(value, least, func(s *unix.Sysinfo_t) uint64 { return s.Totalram })
		if err != nil {
			return err
		}
		*field(l) = n
		return nil
	}
}

// swap lets 0 mean no swap. In Limits 0 means to leave the limit alone, and the
// kernel rounds one byte down to no page.
func swap(value string, l *Limits) error {
	n, err := size(value, 0, func(s *unix.Sysinfo_t) uint64 { return s.Totalswap })
	if err != nil {
		return err
	}
	if n == 0 {
		n = 1
	}
	l.MemorySwapMax = n
	return nil
}

// size reads bytes, or a share of what the machine has.
func size(value string, least int64, all func(*unix.Sysinfo_t) uint64) (int64, error) {
	if unlimited(value) {
		return Unlimited, nil
	}
	if value == "" {
		return 0, errEmpty
	}
	var n int64
	if share, ok := strings.CutSuffix(value, "%"); ok {
		percent, err := decimal(share)
		if err != nil || percent <= 0 || percent > 100 {
			return 0, errors.New("a share must be above 0% and at most 100%")
		}
		var info unix.Sysinfo_t
		if err := unix.Sysinfo(&info); err != nil {
			return 0, fmt.Errorf("the machine's memory is not known: %w", err)
		}
		n = int64(percent / 100 * float64(all(&info)) * float64(info.Unit))
		n -= n % int64(os.Getpagesize())
	} else {
		var err error
		if n, err = units.Size(value); err != nil {
			return 0, err
		}
	}
	if n < least || n > 1<<60 {
		return 0, fmt.Errorf("must be %d to %d bytes", least, int64(1)<<60)
	}
	return n, nil
}

// decimal reads a number that has digits and a point only, which ParseFloat does
// not insist on.
func decimal(text string) (float64, error) {
	text = strings.TrimSpace(text)
	if strings.Trim(text, "0123456789.") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(text, 64)
}

// flag reads what is on or off.
func flag(field func(*Limits) *bool) func(string, *Limits) error {
	return func(value string, l *Limits) error {
		switch value {
		case "1", "true":
			*field(l) = true
		case "0", "false":
			*field(l) = false
		default:
			return errors.New("it is neither")
		}
		return nil
	}
}

// cpuWeight reads a share, or systemd's word for none.
func cpuWeight(value string, l *Limits) error {
	if value == "idle" {
		l.CPUIdle, l.CPUWeight = true, 0
		return nil
	}
	return share(func(l *Limits) *uint64 { return &l.CPUWeight })(value, l)
}

func pids(value string, l *Limits) error {
	if unlimited(value) {
		l.PIDsMax = Unlimited
		return nil
	}
	if strings.HasSuffix(value, "%") {
		return errors.New("shares of the machine's processes are not understood")
	}
	n, err := whole(value, 1, 4<<20)
	if err != nil {
		return err
	}
	l.PIDsMax = n
	return nil
}

func share(field func(*Limits) *uint64) func(string, *Limits) error {
	return func(value string, l *Limits) error {
		if value == "idle" {
			return errors.New("idle is not understood")
		}
		// The kernel shows "default 100", and takes it back.
		n, err := whole(strings.TrimPrefix(value, "default "), 1, 10_000)
		if err != nil {
			return err
		}
		*field(l) = uint64(n)
		return nil
	}
}

func whole(value string, least, most int64) (int64, error) {
	if value == "" {
		return 0, errEmpty
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if errors.Is(err, strconv.ErrSyntax) {
		return 0, errors.New("it is not a whole number")
	}
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("must be %d to %d", least, most)
	}
	return n, nil
}

// list checks the form only; which CPUs there are is for the kernel to say.
// systemd takes spaces for commas.
func list(field func(*Limits) *string) func(string, *Limits) error {
	return func(value string, l *Limits) error {
		parts := strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
		if len(parts) == 0 {
			return errEmpty
		}
		for _, part := range parts {
			first, last, isRange := strings.Cut(part, "-")
			a, err := strconv.ParseUint(first, 10, 16)
			b := a
			if err == nil && isRange {
				b, err = strconv.ParseUint(last, 10, 16)
			}
			if err != nil || b < a {
				return fmt.Errorf("%s is neither a number nor a range", quote(part))
			}
		}
		*field(l) = strings.Join(parts, ",")
		return nil
	}
}

// cpuMax reads systemd's percentage and the kernel's pair of quota and period.
func cpuMax(value string, l *Limits) error {
	if value == "" {
		return errEmpty
	}
	period := 100 * time.Millisecond
	if number, ok := strings.CutSuffix(value, "%"); ok {
		percent, err := decimal(number)
		if err != nil || percent < 1 || percent > 1_000_000 {
			return errors.New("must be 1% to 1000000%")
		}
		l.CPUQuota, l.CPUPeriod = time.Duration(percent/100*float64(period)).Round(time.Microsecond), period
		return nil
	}
	words := strings.Fields(value)
	if len(words) > 2 {
		return errors.New("it is neither a percentage nor quota and period")
	}
	if len(words) == 2 {
		n, err := whole(words[1], 1000, 1_000_000)
		if err != nil {
			return errors.New("the period must be 1000 to 1000000 microseconds")
		}
		period = time.Duration(n) * time.Microsecond
	}
	quota := time.Duration(Unlimited)
	if !unlimited(words[0]) {
		n, err := whole(words[0], 1000, 1<<40)
		if err != nil {
			return errors.New("it is neither a percentage nor a quota of at least 1000 microseconds")
		}
		quota = time.Duration(n) * time.Microsecond
	}
	l.CPUQuota, l.CPUPeriod = quota, period
	return nil
}
