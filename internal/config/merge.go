package config

// combine lays the trees of the files over each other, later ones on top. The
// [defaults] of a file go below the pools that it is the first to name.
func combine(roots []*table) *table {
	if len(roots) == 1 && roots[0].byName["defaults"] == nil {
		return roots[0]
	}
	all := newTable(originHeader, roots[0].at)
	for _, root := range roots {
		under(root, all)
		for _, e := range root.entries {
			if e.name == "defaults" {
				all.put(e) // each for itself
			} else {
				all.lay(e, false)
			}
		}
	}
	return all
}

// under puts the [defaults] of a file below those of its pools that are new.
func under(root, known *table) {
	defaults, pools, before := subtableOf(root, "defaults"), subtableOf(root, "pool"), subtableOf(known, "pool")
	if defaults == nil || pools == nil {
		return
	}
	for _, e := range pools.entries {
		if e.kind != kindTable || subtableOf(before, e.name) != nil {
			continue
		}
		both := newTable(originHeader, e.table.at)
		for _, from := range defaults.entries {
			both.lay(from, true)
		}
		for _, own := range e.table.entries {
			both.lay(own, false)
		}
		v := *e.value
		v.table, e.value = both, &v
	}
}

func subtableOf(t *table, name string) *table {
	if t == nil || t.byName[name] == nil || t.byName[name].kind != kindTable {
		return nil
	}
	return t.byName[name].table
}

// lay adds an entry on top of those that there are. Tables become one, of anything
// else the entries stand side by side. The entry itself stays as it is.
func (t *table) lay(e *entry, inherited bool) {
	own := *e
	own.inherited = own.inherited || inherited
	if e.kind != kindTable {
		t.put(&own)
		return
	}
	into := subtableOf(t, e.name)
	if into == nil {
		v := *e.value
		into = newTable(e.table.origin, e.table.at)
		v.table, own.value = into, &v
		t.put(&own)
	}
	into.at = e.table.at // where it is said last
	for _, inner := range e.table.entries {
		into.lay(inner, inherited)
	}
}
