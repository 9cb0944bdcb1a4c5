package config

import "time"

// outputKeys say how output is shown.
func outputKeys() []key[*Log] {
	shows := []string{ShowText, ShowJSON, ShowNone}
	return append([]key[*Log]{
		{
			Name: "show", Type: oneOfType(shows), Default: "`\"text\"`",
			Meaning: "How `pitvisor up` shows the workers' output on stdout: `text` has the worker before each line, `json` is one object a line, `none` shows nothing. The files are not concerned.",
			Example: `show = "json"`,
			set: func(d *decoder, e *entry, l *Log) {
				if i, ok := d.choice(e, shows...); ok {
					l.Show = shows[i]
				}
			},
		},
	}, append(rotateKeys(), boundKeys()...)...)
}

// rotateKeys say what becomes of output that is not among the newest.
func rotateKeys() []key[*Log] {
	age := func(field func(*Rotate) *time.Duration) func(*decoder, *entry, *Log) {
		return func(d *decoder, e *entry, l *Log) {
			if t, ok := d.duration(e, time.Minute, 0); ok {
				*field(&l.Rotate) = t
			}
		}
	}
	return []key[*Log]{
		{
			Name: "rotate_keep", Type: "whole number", Default: "`2`",
			Meaning: "How many rotated files of each stream are kept. With 0 old bytes are cut away, and a file takes at most a quarter more than `max_size`.",
			Example: `rotate_keep = 10`,
			set: func(d *decoder, e *entry, l *Log) {
				if n, ok := d.whole(e, 0, 10_000); ok {
					l.Rotate.Keep = int(n)
				}
			},
		},
		{
			Name: "rotate_age", Type: "duration", Default: "`\"infinity\"`",
			Meaning: "A file that was begun this long ago is rotated, whatever its size. It is looked at when something is written to it.",
			Example: `rotate_age = "1day"`,
			set:     age(func(r *Rotate) *time.Duration { return &r.Age }),
		},
		{
			Name: "rotate_max_age", Type: "duration", Default: "`\"infinity\"`",
			Meaning: "A file that was rotated this long ago is removed.",
			Example: `rotate_max_age = "30days"`,
			set:     age(func(r *Rotate) *time.Duration { return &r.KeepAge }),
		},
	}
}

// boundKeys say how much of it stays, and how.
func boundKeys() []key[*Log] {
	return []key[*Log]{
		{
			Name: "rotate_max_size", Type: "size", Default: "no bound",
			Meaning: "How many bytes on disk the rotated files of one stream may take together. The oldest are removed.",
			Example: `rotate_max_size = "1G"`,
			set: func(d *decoder, e *entry, l *Log) {
				if n, ok := d.size(e, 64<<10, 1<<50); ok {
					l.Rotate.KeepTotal = n
				}
			},
		},
		{
			Name: "compress", Type: "boolean", Default: "`true`",
			Meaning: "Whether rotated files are compressed, with gzip.",
			Example: `compress = false`,
			set: func(d *decoder, e *entry, l *Log) {
				if b, ok := d.boolean(e); ok {
					l.Rotate.Plain = !b
				}
			},
		},
	}
}
