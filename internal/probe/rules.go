package probe

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/pitvisor/pitvisor/supervise"
)

// any reports whether a rule is set.
func (r *Rules) any() bool {
	return r.Stdout != nil || r.Stderr != nil || r.file() || r.network() || r.Notify || len(r.Exec) > 0 || r.FD != 0
}

func (r *Rules) file() bool { return r.File != "" || r.FileAuto }

func (r *Rules) network() bool { return r.TCP != "" || r.HTTP != "" || r.GRPC != "" }

// givesPort reports whether {port} can have a value.
func (r *Rules) givesPort() bool {
	for _, re := range []*regexp.Regexp{r.Stdout, r.Stderr} {
		if re != nil && re.NumSubexp() > 0 {
			return true
		}
	}
	return r.file() || r.Port != 0
}

// checkFile reports what is wrong with the ready file rule.
func (r *Rules) checkFile() error {
	switch {
	case r.File != "" && r.FileAuto:
		return errors.New("a ready file is named and chosen at the same time")
	case r.File != "" && !filepath.IsAbs(r.File):
		return fmt.Errorf("ready file %q: the path must be absolute", r.File)
	case r.File != "" && strings.HasSuffix(r.File, "/"):
		return fmt.Errorf("ready file %q: this names a directory", r.File)
	}
	return nil
}

func (r *Rules) checkNumbers() error {
	var errs []error
	if r.FD != 0 && (r.FD < 3 || r.FD > 9) {
		errs = append(errs, fmt.Errorf("ready fd %d: must be 3 to 9", r.FD))
	}
	if r.Port < 0 || r.Port > 65535 {
		errs = append(errs, fmt.Errorf("port %d: must be 1 to 65535", r.Port))
	}
	if r.Interval < 0 {
		errs = append(errs, fmt.Errorf("interval %v: must not be negative", r.Interval))
	}
	if r.TryTimeout < 0 {
		errs = append(errs, fmt.Errorf("timeout of one try %v: must not be negative", r.TryTimeout))
	}
	return errors.Join(errs...)
}

// usesPort reports whether a rule needs the value of {port}.
func (rd *readiness) usesPort() bool {
	for _, t := range rd.targets() {
		if t.port == 0 {
			return true
		}
	}
	return strings.Contains(strings.Join(rd.rules.Exec, " "), "{port}")
}

// targets returns the network rules that are set, in the order of asking.
func (rd *readiness) targets() []*target {
	var all []*target
	if rd.tcp != nil {
		all = append(all, rd.tcp)
	}
	if rd.http != nil {
		all = append(all, &rd.http.target)
	}
	if rd.grpc != nil {
		all = append(all, rd.grpc)
	}
	return all
}

// expand replaces the placeholders that name the start.
func expand(s string, info supervise.StartInfo) string {
	if !strings.Contains(s, "{") {
		return s
	}
	return strings.NewReplacer(
		"{run}", info.Run.String(),
		"{pool}", info.Worker.Pool,
		"{slot}", strconv.Itoa(info.Worker.Slot),
		"{worker}", info.Worker.String(),
		"{start}", strconv.FormatUint(info.Start, 10),
	).Replace(s)
}
