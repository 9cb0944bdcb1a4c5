package resource

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/internal/units"
)

// DiskLimit bounds what may be done with one disk in a second. [Unlimited] lifts a
// limit, zero leaves it as it is.
type DiskLimit struct {
	Disk       string // "8:0", the numbers of the whole disk: a partition has no limits
	ReadBytes  int64
	WriteBytes int64
	ReadOps    int64
	WriteOps   int64
}

// value is the limit as the kernel's io.max reads it, or "".
func (d DiskLimit) value() string {
	s := ""
	for _, part := range []struct {
		name string
		n    int64
	}{{"rbps", d.ReadBytes}, {"wbps", d.WriteBytes}, {"riops", d.ReadOps}, {"wiops", d.WriteOps}} {
		switch part.n {
		case 0:
		case Unlimited:
			s += " " + part.name + "=max"
		default:
			s += " " + part.name + "=" + strconv.FormatInt(part.n, 10)
		}
	}
	if s == "" {
		return ""
	}
	return d.Disk + s
}

// ofDisk gives the limits of one disk, in a list of l's own: others may hold the old one.
func (l *Limits) ofDisk(disk string) *DiskLimit {
	l.IOMax = slices.Clone(l.IOMax)
	i := slices.IndexFunc(l.IOMax, func(d DiskLimit) bool { return d.Disk == disk })
	if i < 0 {
		i = len(l.IOMax)
		l.IOMax = append(l.IOMax, DiskLimit{Disk: disk})
	}
	return &l.IOMax[i]
}

// ioMax reads what the kernel's io.max shows, a disk and its limits, several times.
func ioMax(value string, l *Limits) error {
	words := strings.Fields(value)
	if len(words) == 0 {
		return errEmpty
	}
	var disk *DiskLimit
	empty := true
	for _, word := range words {
		name, text, ok := strings.Cut(word, "=")
		if !ok {
			if disk != nil && empty {
				return fmt.Errorf("disk %s has no limit", disk.Disk)
			}
			numbers, err := diskNumbers(word)
			if err != nil {
				return err
			}
			disk, empty = l.ofDisk(numbers), true
			continue
		}
		if disk == nil {
			return fmt.Errorf("it does not begin with a disk but with %s", quote(word))
		}
		if err := disk.set(name, text); err != nil {
			return err
		}
		empty = false
	}
	if empty {
		return fmt.Errorf("disk %s has no limit", disk.Disk)
	}
	return nil
}

// set sets one of the kernel's four.
func (d *DiskLimit) set(name, text string) error {
	var to *int64
	most := int64(1) << 60
	switch name {
	case "rbps":
		to = &d.ReadBytes
	case "wbps":
		to = &d.WriteBytes
	case "riops":
		to, most = &d.ReadOps, math.MaxUint32
	case "wiops":
		to, most = &d.WriteOps, math.MaxUint32
	default:
		return fmt.Errorf("%s is none of rbps, wbps, riops, wiops", quote(name))
	}
	if unlimited(text) {
		*to = Unlimited
		return nil
	}
	n, err := units.Size(text)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if n < 1 || n > most {
		return fmt.Errorf("%s must be 1 to %d", name, most)
	}
	*to = n
	return nil
}

// disk reads systemd's form: one disk and one number.
func disk(field func(*DiskLimit) *int64) func(string, *Limits) error {
	return func(value string, l *Limits) error {
		words := strings.Fields(value)
		if len(words) == 0 {
			return errEmpty
		}
		if len(words) != 2 {
			return errors.New("it is not a disk and a number")
		}
		n, err := thousands(words[1])
		if err != nil {
			return err
		}
		numbers, err := diskNumbers(words[0])
		if err != nil {
			return err
		}
		*field(l.ofDisk(numbers)) = n
		return nil
	}
}

// thousands reads a number whose K is 1000.
func thousands(text string) (int64, error) {
	if unlimited(text) {
		return Unlimited, nil
	}
	number, power := text, 0
	if i := strings.IndexByte("KMGT", text[len(text)-1]); i >= 0 {
		number, power = text[:len(text)-1], i+1
	}
	f, err := decimal(number)
	if err != nil {
		return 0, fmt.Errorf("%s is not a number", quote(text))
	}
	f *= math.Pow(1000, float64(power))
	if f < 1 || f > 1<<60 {
		return 0, fmt.Errorf("%s must be 1 to %d", quote(text), int64(1)<<60)
	}
	return int64(f), nil
}

// diskNumbers returns the numbers of a disk that is given by them, by its node, or by
// a file on it. Those of a partition are replaced by those of its disk.
func diskNumbers(text string) (string, error) {
	if !strings.HasPrefix(text, "/") {
		major, minor, ok := strings.Cut(text, ":")
		a, err := strconv.ParseUint(major, 10, 12)
		b, minorErr := strconv.ParseUint(minor, 10, 20)
		if !ok || err != nil || minorErr != nil {
			return "", fmt.Errorf("%s is neither a disk such as 8:0 nor a path", quote(text))
		}
		return fmt.Sprintf("%d:%d", a, b), nil
	}
	var st unix.Stat_t
	if err := unix.Stat(text, &st); err != nil {
		return "", fmt.Errorf("look at %s: %w", quote(text), err)
	}
	number := st.Dev
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		number = st.Rdev
	case unix.S_IFREG, unix.S_IFDIR:
	default:
		return "", fmt.Errorf("%s is neither a disk nor a file on one", quote(text))
	}
	if unix.Major(number) == 0 {
		return "", fmt.Errorf("%s is on no disk", quote(text))
	}
	return wholeDisk(fmt.Sprintf("%d:%d", unix.Major(number), unix.Minor(number)))
}

// wholeDisk returns the numbers of the disk that a partition is on.
func wholeDisk(numbers string) (string, error) {
	sys := "/sys/dev/block/" + numbers
	if _, err := os.Stat(sys + "/partition"); err != nil {
		return numbers, nil
	}
	b, err := os.ReadFile("/sys/dev/block/" + numbers + "/../dev")
	if err != nil {
		return "", fmt.Errorf("find the disk of partition %s: %w", numbers, err)
	}
	return strings.TrimSpace(string(b)), nil
}
