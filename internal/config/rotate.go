package config

import "time"

// outputKeys say how output is shown, and what becomes of that which is not new.
func outputKeys() []key[*Log] {
	shows := []string{ShowText, ShowJSON, ShowNone}
	return append([]key[*Log]{
		oneWord(key[*Log]{
			Name: "show", Default: "`\"text\"`",
			Meaning: "How `pitvisor up` shows the workers' output on stdout: `text` has the worker before each line, `json` is one object a line, `none` shows nothing. The files are not concerned.",
			Example: `show = "json"`,
		}, shows, func(l *Log, i int) { l.Show = shows[i] }),
	}, append(rotateKeys(), boundKeys()...)...)
}

// rotateKeys say what becomes of output that is not among the newest.
func rotateKeys() []key[*Log] {
	return []key[*Log]{
		whole(key[*Log]{
			Name: "rotate_keep", Default: "`2`",
			Meaning: "How many rotated files of each stream are kept. With 0 old bytes are cut away, and a file takes at most a quarter more than `max_size`.",
			Example: `rotate_keep = 10`,
		}, 0, 10_000, func(l *Log, n int) { l.Rotate.Keep = n }),
		lasting(key[*Log]{
			Name: "rotate_age", Default: "`\"infinity\"`",
			Meaning: "A file that was begun this long ago is rotated, whatever its size. It is looked at when something is written to it.",
			Example: `rotate_age = "1day"`,
		}, time.Minute, 0, func(l *Log, t time.Duration) { l.Rotate.Age = t }),
		lasting(key[*Log]{
			Name: "rotate_max_age", Default: "`\"infinity\"`",
			Meaning: "A file that was rotated this long ago is removed.",
			Example: `rotate_max_age = "30days"`,
		}, time.Minute, 0, func(l *Log, t time.Duration) { l.Rotate.KeepAge = t }),
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
		yesNo(key[*Log]{
			Name: "compress", Default: "`true`",
			Meaning: "Whether rotated files are compressed, with gzip.",
			Example: `compress = false`,
		}, func(l *Log, b bool) { l.Rotate.Plain = !b }),
	}
}
