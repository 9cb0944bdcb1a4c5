package resource

// Whose says where the limit is that was hit.
type Whose uint8

// Where it is.
const (
	LimitNone     Whose = iota // none was hit
	LimitOwn                   // the leaf's own
	LimitBelow                 // of a cgroup below the leaf
	LimitAncestor              // of a given ancestor
	LimitAbove                 // above the given ancestors, or what the host has
)

// String returns one word.
func (w Whose) String() string {
	switch w {
	case LimitNone:
		return "none"
	case LimitOwn:
		return "own"
	case LimitBelow:
		return "below"
	case LimitAncestor:
		return "ancestor"
	case LimitAbove:
		return "above"
	}
	return "unknown"
}

// Hit says whose limit was hit.
type Hit struct {
	Whose Whose
	Level int    // which of the cgroups has the limit: 0 the leaf, 1 its first ancestor, ...; -1 none of them
	Path  string // of that cgroup, "" if it is none of them
	Sure  bool   // false if others may have hit it alone, or it was another's
}

// limit names the limit; above is what is said of one that is none of ours, doubt why it
// is not sure.
func (h Hit) limit(above, doubt string) string {
	var s string
	switch h.Whose {
	case LimitNone:
	case LimitOwn, LimitAncestor:
		s = "limit of " + h.Path
	case LimitBelow:
		s = "limit of a cgroup below " + h.Path
	case LimitAbove:
		return above
	}
	if !h.Sure {
		s += ", as far as can be told" + doubt
	}
	return s
}
