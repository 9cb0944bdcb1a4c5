package probe

import (
	"reflect"
	"regexp"
)

// Equal says whether other are the same rules with the same surroundings.
func (rd *readiness) Equal(other any) bool {
	o, ok := other.(*readiness)
	return ok && sameRules(&rd.rules, &o.rules) && sameDeps(&rd.deps, &o.deps)
}

// Suits says whether a worker that was started under other, nil for none, can go on
// under these rules: whether all that a worker is given for them is the same.
func (rd *readiness) Suits(other any) bool {
	o, ok := other.(*readiness)
	if !ok {
		o = &readiness{}
	}
	a, b := &rd.rules, &o.rules
	return (ok || other == nil) && a.File == b.File && a.FileAuto == b.FileAuto && a.FD == b.FD && a.Port == b.Port && a.Notify == b.Notify
}

// sameRules compares expressions by what they are written as.
func sameRules(a, b *Rules) bool {
	x, y := *a, *b
	same := text(x.Stdout) == text(y.Stdout) && text(x.Stderr) == text(y.Stderr)
	x.Stdout, x.Stderr, y.Stdout, y.Stderr = nil, nil, nil, nil
	return same && reflect.DeepEqual(x, y)
}

// sameDeps compares what the rules run with. Whose counts are told is not a part of it.
func sameDeps(a, b *Deps) bool {
	x, y := *a, *b
	same := x.Notify == y.Notify
	x.Notify, y.Notify, x.Files, y.Files, x.Count, y.Count = nil, nil, nil, nil, nil, nil
	return same && reflect.DeepEqual(x, y)
}

func text(re *regexp.Regexp) string {
	if re == nil {
		return ""
	}
	return re.String()
}
