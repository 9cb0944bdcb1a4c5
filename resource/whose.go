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
